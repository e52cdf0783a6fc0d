"""Settings that no machine, or not this one, can hold are refused by name before anything is made."""

from pathlib import Path

import pytest
import torch

from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.training.assembly import assemble
from plasticity.training.config import sizes
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from
from plasticity.training.config.sizes import least_network_bytes, memory_there_is

CONFIGS = Path(__file__).parents[3] / "configs"
DIGITS = 64 * 4  # bytes of an input of the bandit
GB = 10**9


def refusal(*words: str) -> str:
    with pytest.raises(ValueError) as error:
        assemble(plan_from(compose_config(words, CONFIGS)))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["agent.buffer_transitions=100000000000"], "agent.buffer_transitions=100000000000 needs at least 26,400.0 GB"),
        (["network.widths=[100000000]"], "network.widths=[100000000] needs at least 102.4 GB"),
        (["network.widths=[8,1000000,1000000]"], "network.widths=[8, 1000000, 1000000] needs at least 16,000.1 GB"),
        (["network.widths=[100000000]", "optimizer=sgd"], "network.widths=[100000000] needs at least 51.2 GB"),
        (["agent=dqn_two_hot", "agent.bins=100000000"], "agent.bins=100000000 needs at least 204.8 GB"),
        (["agent.dueling=true", "agent.stream_widths=[1000000,1000000]"], "agent.stream_widths=[1000000, 1000000] needs"),
        (["agent=ppo", "agent.rollout_steps=1000000000"], "agent.rollout_steps=1000000000 needs at least 264.0 GB"),
        (["metrics.inputs=1000000000"], "metrics.inputs=1000000000 needs at least 256.0 GB"),
        (["probe.inputs=1000000000"], "probe.inputs=1000000000 needs at least 256.0 GB"),
        (["network=simba", "network.residual_blocks=1000000000"], "network.widths=[512] with residual_blocks=1000000000 needs"),
    ],
)
def test_what_needs_more_memory_than_there_is(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "memory_there_is", lambda device: 16 * GB)
    told = refusal(*words)
    assert told.startswith(message)
    assert told.endswith(" GB of memory, and this machine has 16.0 GB")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["agent.batch_size=1000000000"], "agent.buffer_transitions=100000 must be at least agent.batch_size=1000000000"),
        (["agent.buffer_transitions=7"], "agent.buffer_transitions=7 must be at least agent.batch_size=8"),
        (["agent.n_step=100001"], "agent.buffer_transitions=100000 must be at least agent.n_step=100001"),
        (
            ["env.num_envs=7", "agent.batch_size=2", "agent.buffer_transitions=5"],
            "agent.buffer_transitions=5 must be at least env.num_envs=7",
        ),
        (["env.num_envs=1000000000"], "env.num_envs=1000000000 must be between 1 and 65536"),
        (["env.num_envs=0"], "env.num_envs=0 must be at least 1"),
        (
            ["evaluation.num_envs=100000", "evaluation.episodes=100000"],
            "evaluation.num_envs=100000 must be between 1 and 65536",
        ),
    ],
)
def test_counts_that_cannot_be(words: list[str], message: str) -> None:
    assert refusal(*words).startswith(message)


def test_the_bound_is_below_what_a_network_takes() -> None:
    # 64 x 10 and 10 x 20 weights, four copies of four bytes, and two layers.
    assert least_network_bytes(MLPSpec(widths=[10, 20]), (64,), 4) == 840 * 16 + 2 * 4096
    # Between the convolutions 3 x 5 x 2 x 2 weights, behind them 7.
    spec = ConvSpec(channels=[3, 5], kernel_sizes=[2], widths=[7])
    assert least_network_bytes(spec, (1, 8, 8), 2) == (60 + 7) * 8 + 3 * 4096


@pytest.mark.parametrize(("physical", "rows"), [(26_400_000, 80_000), (26_399_999, 100_000)])
def test_a_run_that_fits_is_not_refused(physical: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 100,000 transitions the default run writes 80,000, of 264 bytes each.
    monkeypatch.setattr(sizes, "physical_memory", lambda: physical)
    monkeypatch.setattr(sizes, "memory_there_is", lambda device: rows * (DIGITS + 8))
    assemble(plan_from(compose_config(["steps=80000"], CONFIGS))).stream.close()
    monkeypatch.setattr(sizes, "memory_there_is", lambda device: rows * (DIGITS + 8) - 1)
    assert refusal("steps=80000").startswith("agent.buffer_transitions=100000 needs at least")


def test_the_memory_of_this_machine_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "_LIMITS", ())
    all_of_it = memory_there_is(torch.device("cpu"))
    assert all_of_it > GB // 4
    (tmp_path / "none").write_text("max\n")
    (tmp_path / "some").write_text("123456\n")
    monkeypatch.setattr(sizes, "_LIMITS", (str(tmp_path / "none"), str(tmp_path / "missing")))
    assert memory_there_is(torch.device("cpu")) == all_of_it
    monkeypatch.setattr(sizes, "_LIMITS", (str(tmp_path / "some"),))
    assert memory_there_is(torch.device("cpu")) == 123456
