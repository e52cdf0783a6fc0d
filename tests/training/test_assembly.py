"""What an assembly refuses or warns of beyond the settings themselves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from plasticity.interventions.methods.redo import ReDo
from plasticity.training.assembly import assemble, choose_device, choose_threads, without_updates
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from

CONFIGS = Path(__file__).parents[2] / "configs"
IDLE = "reset acts at task switches only, and this env announces none"


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def plan(*words: str) -> Any:
    return plan_from(compose_config(words, CONFIGS))


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (["intervention=reset"], True),
        (["intervention=reset", "interventions.reset.every_updates=5"], False),
        (["intervention=reset", "agent=supervised", "env=permuted_pixels"], False),
        (["intervention=reset", "agent=supervised", "env=permuted_pixels", "env.announce_tasks=false"], True),
        (["intervention=redo"], False),
    ],
)
def test_a_method_that_waits_for_nothing_is_warned_of(words: list[str], warned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assemble(plan(*words))
    assert (IDLE in capsys.readouterr().err) == warned


def test_a_method_is_made_once_and_each_part_has_a_copy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ReDo] = []
    ready = ReDo.__post_init__
    monkeypatch.setattr(ReDo, "__post_init__", lambda self: (ready(self), made.append(self)))
    words = ["agent=sac", "env=gym", "env.id=Pendulum-v1", "agent.buffer_transitions=200", "agent.batch_size=100"]
    given = plan(*words, "intervention=redo", "interventions.redo.every_updates=7")
    assert [id(method) for method in made] == [id(given.interventions["redo"])]
    parts = [part.interventions["redo"] for _ in range(2) for part in assemble(given).agent.parts.values()]
    assert len(made) == 1
    assert len(parts) == len({id(method) for method in parts}) == 4  # actor and critic, and none is shared with another run
    assert all(method == given.interventions["redo"] for method in parts)
    assert all(method.state for method in parts)
    assert not given.interventions["redo"].state


def test_threads_follow_the_size_of_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    small, large = (assemble(plan(f"network.widths=[{width}]")).agent for width in (8, 14_000))
    assert choose_threads("auto", small) == 1
    assert choose_threads("auto", large) == 2
    assert choose_threads("3", small) == 3
    assemble(plan("threads=2"))
    assert torch.get_num_threads() == 2


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"^device=cuda:0 is not available on this machine; choose cpu or auto$"):
        choose_device("cuda:0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)


def test_recording_updates_needs_a_device() -> None:
    with pytest.raises(ValueError, match=r"^capture=true records updates as CUDA graphs and needs device=cuda, not cpu$"):
        assemble(plan("capture=true", "device=cpu"))


def test_a_method_for_another_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^interventions\.redo\.parts=\['actor'\]: agent=dqn has the parts q$"):
        assemble(plan("intervention=redo", "interventions.redo.parts=[actor]"))


def test_bf16_reaches_the_forward_pass() -> None:
    agent = assemble(plan("precision=bf16")).agent
    assert agent.parts["q"].execution.autocast is torch.bfloat16


NORMALISED = ["network.normalisation=[batch]", "network.widths=[4]"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["agent.batch_size=1"], "agent.batch_size=1"),
        (["agent=supervised", "env=permuted_pixels", "env.batch_size=1"], "env.batch_size=1"),
        (["agent=supervised", "env=permuted_pixels", "env.examples_per_task=33"], "task 0 has 33 examples"),
        (["agent=supervised", "env=permuted_pixels", "env.examples=49"], "task 0 has 49 examples"),
        # The first eight classes of digits, in the order of this seed, have 1,441 = 90 x 16 + 1 examples.
        (["agent=supervised", "env=permuted_pixels", "env.mode=growing"], "task 7 has 1441 examples"),
    ],
)
def test_batch_normalisation_of_single_examples_is_refused_before_the_run(words: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}.* one( example)?: batch normalisation"):
        assemble(plan(*words, *NORMALISED))
    assemble(plan(*words, "network.normalisation=[layer]", "network.widths=[4]"))


def test_evaluation_of_tasks_is_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match=r"^task_evaluation evaluates the tasks of a data stream, and this env is not one"):
        assemble(plan("task_evaluation.every_tasks=2"))


@pytest.mark.parametrize("part", ["", "parts.q."])
def test_learning_rates_that_follow_tasks_need_tasks_of_examples(part: str) -> None:
    words = [f"+optimizer.{part}schedule=linear", f"+optimizer.{part}schedule_per_task=true"]
    with pytest.raises(ValueError, match=rf"^optimizer\.{part}schedule_per_task=true follows the tasks of a data"):
        assemble(plan(*words) if part else plan(*(word[1:] for word in words)))


def test_a_length_that_is_left_open_is_the_run_s_for_each_part_that_needs_one() -> None:
    chosen = plan("agent=sac", "env=gym", "env.id=Pendulum-v1", "steps=1e4", "+optimizer.parts.actor.schedule=cosine")
    assert (chosen.optimizer.schedule_steps, chosen.optimizer_parts["actor"].schedule_steps) == (None, 10_000)
    assert chosen.config["optimizer"]["parts"] == {"actor": {"schedule": "cosine", "schedule_steps": 10_000}}
    chosen = plan("optimizer.schedule=linear", "steps=70", "+optimizer.parts.q.schedule_end=0.5")
    assert [chosen.optimizer_parts["q"].rate_schedule[at] for at in (0, 1, 4)] == ["linear", 70, 0.5]


@pytest.mark.parametrize(
    ("words", "branch", "told"),
    [
        (["steps=1000"], None, "steps=1000 ends within the first agent.warmup_env_steps=1000 steps, in which"),
        (["steps=1001"], None, ""),
        (["steps=1000", "agent=supervised", "env=permuted_pixels"], None, ""),
        (["steps=2500"], {"step": 2000, "replay": "clear"}, "=1000 steps after step 2000, where the replay is emptied, in which"),
        (["steps=2500"], {"step": 2000, "replay": "keep"}, ""),
    ],
)
def test_a_run_that_ends_before_it_learns_is_told_of(words: list[str], branch: dict[str, Any] | None, told: str) -> None:
    planned = plan(*words)
    line = without_updates(planned if branch is None else replace(planned, config={**planned.config, "branch": branch}))
    assert (told in line) if told else line == ""
