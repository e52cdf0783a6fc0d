"""Every shipped experiment composes, trains, and has the numbers of its paper."""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import run_agent
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from

CONFIGS = Path(__file__).parents[3] / "configs"
FILES = sorted((CONFIGS / "experiment").glob("*.yaml"))
NAMES = [path.stem for path in FILES]
TINY = {
    "dqn": ["agent.batch_size=4", "agent.buffer_transitions=64", "agent.warmup_env_steps=8"],
    "ppo": ["agent.rollout_steps=4", "agent.minibatch_size=8", "agent.epochs=1"],
    "sac": ["agent.batch_size=4", "agent.buffer_transitions=64", "agent.warmup_env_steps=8"],
    "supervised": [],
}
# Of a data stream, where it has the setting: data that need no file, and little of them.
LITTLE = {
    "dataset": "digits",
    "examples_per_task": 30,
    "examples": 100,
    "train_per_class": 6,
    "validation_per_class": 2,
    "test_per_class": 2,
}
# The others take their time in emulators and simulators, and differ in settings from these.
QUICK = {"atari_dqn", "bandit_plasticity", "mujoco_ppo", "online_permuted_mnist_mixed", "random_label_mnist", "target_offsets"}
# They need files that do not come with the testbed, or are too large for a test.
TYPED_ALONE = {
    "cifar10_pairs",
    "continual_imagenet",
    "incremental_cifar10",
    "incremental_cifar100",
    "incremental_cifar100_balance",
    "iwildcam",
    "noisy_start",
    "permuted_shakespeare",
    "quick_draw_pairs",
    "random_label_cifar",
    "snr_continual_imagenet",
    "snr_random_label_cifar",
    "warm_start",
    *(() if find_spec("minatar") else ("minatar_dqn",)),
}
WATCHED = ["metrics.every_steps=32", "metrics.inputs=8", "probe.every_steps=32", "probe.steps=2", "probe.inputs=8"]
SHORT = ["steps=32", "log_every_steps=16", "probe.batch_size=4", "checkpoint.every_steps=0", *WATCHED]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@cache
def composed(name: str, *words: str) -> dict[str, Any]:
    return compose_config([f"experiment={name}", *words], CONFIGS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_described(path: Path) -> None:
    first, second, *_ = path.read_text().splitlines()
    assert first == "# @package _global_"
    assert second.startswith("# ")
    assert second.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_settings_that_fit(name: str) -> None:
    assert plan_from(composed(name)).run.steps > 0


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted({*NAMES} - TYPED_ALONE)]
)
def test_every_experiment_trains(name: str, tmp_path: Path) -> None:
    config = composed(name)
    small = [f"network.widths={[8 for _ in config['network']['widths']]}"]
    if config["agent"].get("stream_widths"):
        small.append("agent.stream_widths=[8]")
    small += [f"env.{key}={value}" for key, value in LITTLE.items() if key in config["env"]]
    words = [f"experiment={name}", *SHORT, *small, *TINY[config["agent"]["name"]]]
    assert run_agent.main(["progress=false", f"run_dir={tmp_path / 'run'}", *words]) == 0
    rows = (tmp_path / "run" / "metrics.csv").read_text()
    assert ",train/" in rows
    assert ",plasticity/dormant_fraction" in rows
    assert ",probe/" in rows


@pytest.mark.parametrize(
    ("name", "words", "key", "value"),
    [
        ("atari_dqn", ["env.game=pong"], "game", "pong"),
        ("atari_ppo", ["env=demon_attack"], "game", "demon_attack"),
        ("atari_c51", ["env=continual_atari"], "steps_per_game", 1_000_000),
        ("mujoco_ppo", ["env.id=Hopper-v5"], "id", "Hopper-v5"),
        ("mujoco_ppo", ["env=hopper"], "id", "Hopper-v5"),
        ("mujoco_sac", ["env=ant"], "id", "Ant-v5"),
        ("slippery_ant_ppo", ["env=slippery_humanoid"], "id", "Humanoid-v5"),
        ("dmc_sac", ["env.task=humanoid-run"], "task", "humanoid-run"),
        ("minatar_dqn", ["env.game=seaquest"], "game", "seaquest"),
        ("minatar_dqn", ["env=continual_minatar"], "steps_per_game", 1_000_000),
    ],
)
def test_another_environment_can_be_chosen(name: str, words: list[str], key: str, value: object) -> None:
    chosen, plain = plan_from(composed(name, *words)), plan_from(composed(name))
    assert getattr(chosen.env, key) == value
    assert (chosen.agent, chosen.network, chosen.optimizer) == (plain.agent, plain.network, plain.optimizer)
    for shared in ("protocol", "normalise_observations", "action_repeat"):
        assert getattr(chosen.env, shared, None) == getattr(plain.env, shared, None)


def test_the_learning_rate_falls_over_a_run_of_any_length() -> None:
    for name in ("atari_ppo", "mujoco_ppo"):
        plan: Any = plan_from(composed(name, "steps=12345"))
        assert (plan.optimizer.schedule, plan.optimizer.schedule_steps) == ("linear", 12345)
        assert plan.config["optimizer"]["schedule_steps"] == 12345


# The numbers of the papers


@pytest.mark.parametrize(
    ("name", "copied", "warmup", "epsilon", "protocol"),
    [
        ("atari_dqn", 8_000, 20_000, (1.0, 0.01, 250_000), "dopamine"),
        ("atari_c51", 8_000, 20_000, (1.0, 0.01, 250_000), "dopamine"),
        ("atari_dqn_2015", 10_000, 50_000, (1.0, 0.1, 1_000_000), "dqn2015"),
        ("atari_rainbow", 8_000, 20_000, (0.0, 0.0, 10_000), "dqn2015"),
    ],
)
def test_value_based_agents_on_atari_count_in_decisions(
    name: str, copied: int, warmup: int, epsilon: tuple[float, float, int], protocol: str
) -> None:
    plan: Any = plan_from(composed(name))
    agent = plan.agent
    assert agent.target_every_updates * agent.env_steps_per_update == copied
    assert (agent.warmup_env_steps, agent.buffer_transitions, agent.batch_size) == (warmup, 1_000_000, 32)
    assert (agent.epsilon_start, agent.epsilon_end, agent.epsilon_env_steps) == epsilon
    assert (agent.env_steps_per_update, agent.discount) == (4, 0.99)
    assert (plan.env.protocol, plan.env.frame_skip * plan.run.steps) == (protocol, 200_000_000)
    assert (plan.network.torso, [*plan.network.widths, *agent.stream_widths]) == ("nature_cnn", [512])
    rainbow = name == "atari_rainbow"
    assert (agent.double, agent.dueling, agent.prioritised, agent.n_step) == (rainbow, rainbow, rainbow, 3 if rainbow else 1)


@pytest.mark.parametrize(
    ("name", "optimizer", "rate", "epsilon"),
    [
        ("atari_dqn", "adam", 6.25e-5, 1.5e-4),
        ("atari_c51", "adam", 2.5e-4, 0.01 / 32),
        ("atari_dqn_2015", "rmsprop", 2.5e-4, 0.01**0.5 / 32),
        ("atari_rainbow", "adam", 6.25e-5, 0.005 / 32),
        ("atari_ppo", "adam", 2.5e-4, 1e-5),
        ("mujoco_ppo", "adam", 3e-4, 1e-5),
        ("mujoco_sac", "adam", 3e-4, 1e-8),
        ("dmc_sac", "adam", 3e-4, 1e-8),
        ("slippery_ant_ppo", "adam", 1e-4, 1e-8),
    ],
)
def test_optimizers(name: str, optimizer: str, rate: float, epsilon: float) -> None:
    chosen = plan_from(composed(name)).optimizer
    assert (chosen.name, chosen.learning_rate, chosen.betas) == (optimizer, rate, [0.9, 0.999])
    assert chosen.epsilon == pytest.approx(epsilon, rel=1e-12)
    assert (chosen.smoothing, chosen.centered, chosen.momentum) == (0.95, True, 0.0)
    bounds = {"atari_ppo": 0.5, "mujoco_ppo": 0.5, "atari_rainbow": 10.0}
    assert chosen.max_gradient_norm == bounds.get(name)


def test_dqn_on_minatar() -> None:
    plan: Any = plan_from(composed("minatar_dqn"))
    agent, network, optimizer = plan.agent, plan.network, plan.optimizer
    assert (agent.batch_size, agent.buffer_transitions, agent.warmup_env_steps, agent.discount) == (32, 100_000, 5_000, 0.99)
    assert (agent.env_steps_per_update, agent.target_every_updates, agent.loss) == (1, 1_000, "huber")
    assert (agent.epsilon_start, agent.epsilon_end, agent.epsilon_env_steps) == (1.0, 0.1, 100_000)
    assert (agent.double, agent.dueling, agent.prioritised, agent.n_step) == (False, False, False, 1)
    assert (network.channels, network.kernel_sizes, network.strides, network.widths) == ([16], [3], [1], [128])
    assert (network.paddings, network.pools, network.activations, network.initialiser) == ([0], [1], ["relu"], "default")
    assert (optimizer.name, optimizer.learning_rate, optimizer.epsilon) == ("rmsprop", 2.5e-4, 0.01)
    assert (optimizer.smoothing, optimizer.momentum, optimizer.centered) == (0.95, 0.95, True)
    assert (plan.env.sticky_action_prob, plan.env.difficulty_ramping, plan.env.full_action_set) == (0.1, True, True)
    assert (plan.env.max_episode_steps, plan.run.steps) == (None, 5_000_000)


def test_losses_of_value_based_agents() -> None:
    losses = {"atari_dqn": "squared", "atari_dqn_2015": "huber", "atari_c51": "categorical", "atari_rainbow": "categorical"}
    for name, loss in losses.items():
        agent = composed(name)["agent"]
        assert agent["loss"] == loss
        if loss == "categorical":
            assert (agent["bins"], agent["value_low"], agent["value_high"]) == (51, -10, 10)


def test_what_is_rainbows_alone() -> None:
    plan: Any = plan_from(composed("atari_rainbow"))
    agent = plan.agent
    assert (agent.noise_deviation, agent.priority_exponent, agent.priority_uniform_fraction) == (0.1, 0.5, 0.001)
    assert (agent.importance_start, agent.importance_end, agent.importance_env_steps) == (0.4, 1.0, plan.run.steps)


@pytest.mark.parametrize(
    ("name", "policy", "random"),
    [
        ("atari_dqn", "greedy", 0.001),
        ("atari_c51", "greedy", 0.001),
        ("atari_dqn_2015", "greedy", 0.05),
        ("atari_rainbow", "greedy", 0.0),
        ("atari_ppo", "sampled", 0.0),
        ("mujoco_sac", "greedy", 0.0),
        ("dmc_sac", "greedy", 0.0),
    ],
)
def test_evaluation(name: str, policy: str, random: float) -> None:
    evaluation = plan_from(composed(name)).evaluation
    assert (evaluation.policy, evaluation.random_action_probability) == (policy, random)


@pytest.mark.parametrize(
    ("name", "rollout", "minibatches", "epochs", "clip", "entropy", "shared"),
    [
        ("atari_ppo", 8 * 128, 4, 4, 0.1, 0.01, True),
        ("mujoco_ppo", 2048, 32, 10, 0.2, 0.0, False),
        ("slippery_ant_ppo", 2048, 16, 10, 0.2, 0.0, False),
    ],
)
def test_ppo(name: str, rollout: int, minibatches: int, epochs: int, clip: float, entropy: float, shared: bool) -> None:
    plan: Any = plan_from(composed(name))
    agent, original = plan.agent, name == "slippery_ant_ppo"
    assert agent.rollout_steps * plan.env.num_envs == rollout
    assert agent.minibatch_size * minibatches == rollout
    assert (agent.epochs, agent.clip, agent.entropy_coefficient, agent.shared_torso) == (epochs, clip, entropy, shared)
    assert (agent.discount, agent.trace_decay, agent.normalise_advantages) == (0.99, 0.95, True)
    assert agent.clip_value == (None if original else clip)
    assert agent.value_coefficient == (1.0 if original else 0.5 * 0.5)  # half of the square, weighed with a half
    assert (plan.optimizer.schedule, plan.optimizer.schedule_steps) == (
        ("constant", None) if original else ("linear", plan.run.steps)
    )


def test_environments_of_continuous_control() -> None:
    ppo, sac, dmc, slippery = (
        plan_from(composed(name)).config["env"] for name in ("mujoco_ppo", "mujoco_sac", "dmc_sac", "slippery_ant_ppo")
    )
    assert (ppo["normalise_observations"], ppo["normalise_rewards"], ppo["reward_discount"]) == (True, True, 0.99)
    for env in (sac, dmc, slippery):
        assert (env["normalise_observations"], env["normalise_rewards"]) == (False, False)
    assert (dmc["action_repeat"], composed("dmc_sac")["steps"] * dmc["action_repeat"]) == (2, 1_000_000)
    assert (slippery["id"], slippery["shift"], slippery["shift_range"]) == ("Ant-v5", "friction", [0.02, 2.0])
    assert (slippery["change_every_steps"], slippery["announce_tasks"]) == (2_000_000, False)


@pytest.mark.parametrize(("name", "warmup"), [("mujoco_sac", 10_000), ("dmc_sac", 5_000)])
def test_sac(name: str, warmup: int) -> None:
    plan: Any = plan_from(composed(name))
    agent = plan.agent
    assert (agent.batch_size, agent.buffer_transitions, agent.warmup_env_steps) == (256, 1_000_000, warmup)
    assert (agent.target_step_size, agent.env_steps_per_update, agent.discount) == (0.005, 1, 0.99)
    assert (agent.initial_temperature, agent.temperature_learning_rate, agent.target_entropy_per_dimension) == (1.0, 3e-4, -1.0)
    assert plan.network.widths == [256, 256]
