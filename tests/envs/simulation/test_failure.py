"""An environment that fails: one line that names environment, copy, step, quantity and what is allowed."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import run_agent
from plasticity.envs.environments.dmc import DmcEnv
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.simulation.failure import EnvironmentFailure, described, finite_reward, one_line
from plasticity.envs.simulation.normalisation import NormaliseObservations, NormaliseRewards
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.training.saving.checkpoint import latest_checkpoint, load_checkpoint


def raising(error: BaseException) -> None:
    raise error


class Fails(gymnasium.Env[Any, Any]):
    """Is well until step ``at`` of its life, and then does ``what``; its episodes have four steps."""

    observation_space = spaces.Box(-9, 9, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, what: str = "nothing", at: int = 6) -> None:
        self.what, self.at, self.count = what, at, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.what == "reset" and self.count >= self.at:
            return np.full(3, np.nan, np.float32), {}
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self.count += 1
        seen = np.full(3, float(self.count % 5), np.float32)
        good = (seen, 1.0, False, self.count % 4 == 0, {})
        if self.count != self.at:
            return good
        answers: dict[str, Callable[[], Any]] = {
            "nothing": lambda: good,
            "reset": lambda: (seen, 1.0, True, False, {}),
            "nan": lambda: (np.array([0, np.nan, 0], np.float32), *good[1:]),
            "infinite": lambda: (np.array([0, 0, -np.inf], np.float32), *good[1:]),
            "final": lambda: (np.array([np.nan, 0, 0], np.float32), 1.0, True, False, {}),
            "double": lambda: (np.array([0, 1e300, 0]), *good[1:]),
            "reward": lambda: (seen, math.nan, *good[2:]),
            "large": lambda: (seen, 1e39, *good[2:]),
            "no_reward": lambda: (seen, None, *good[2:]),
            "rewards": lambda: (seen, np.ones(2), *good[2:]),
            "shape": lambda: (np.zeros(4, np.float32), *good[1:]),
            "scalar": lambda: (np.float32(0), *good[1:]),
            "words": lambda: (np.array(["a", "b", "c"]), *good[1:]),
            "none": lambda: (None, *good[1:]),
            "four": lambda: good[:4],
            "raises": partial(raising, RuntimeError("the\n  joint broke")),
            "silent": partial(raising, AssertionError()),
            "exits": partial(raising, SystemExit(3)),
        }
        return answers[self.what]()


LINES = {
    "nan": "the observation is nan at index 1; observations must be finite in single precision",
    "infinite": "the observation is -inf at index 2; observations must be finite in single precision",
    "final": "the observation is nan at index 0; observations must be finite in single precision",
    "double": "the observation is inf at index 1; observations must be finite in single precision",
    "reward": "the reward is nan; it must be finite in single precision",
    "large": "the reward is 1e+39; it must be finite in single precision",
    "no_reward": "the reward is None; it must be a number",
    "rewards": "the reward is array([1., 1.]); it must be a number",
    "shape": "the observation has shape (4,); its space has (3,)",
    "scalar": "the observation has shape (); its space has (3,)",
    "words": "the observation has dtype <U1; it must be numbers, such as float32",
    "none": "the observation has shape (); its space has (3,)",
    "four": "it raised ValueError: not enough values to unpack (expected 5, got 4)",
    "raises": "it raised RuntimeError: the joint broke",
    "silent": "it raised AssertionError",
    "exits": "it raised SystemExit: 3",
    "reset": "the observation is nan at index 0; observations must be finite in single precision",
}


def act(observations: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(observations), dtype=torch.int64)


def broken(vector: Any) -> str:
    """Advances until the failure, which must come in the sixth step, and returns its line."""
    stream = EnvironmentStream(vector, 0, "Fails-v0")
    for _ in range(5):
        stream.advance(act)
    with pytest.raises(EnvironmentFailure) as error:
        stream.advance(act)
    assert stream.step == 5 * stream.num_envs
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("what", LINES)
def test_every_failure_has_one_line(what: str) -> None:
    vector = SyncVector([Fails, partial(Fails, what)])
    assert broken(vector) == f"environment Fails-v0, copy 2 of 2, step 12 (2 of its episode): {LINES[what]}"


@pytest.mark.parametrize("wrap", [NormaliseObservations, lambda env: NormaliseRewards(env, 0.9)])
@pytest.mark.parametrize("what", ["infinite", "reward", "large", "final"])
def test_normalisation_hides_nothing_and_learns_nothing_of_it(wrap: Any, what: str) -> None:
    env = wrap(SyncVector([partial(Fails, what)]))
    env.frozen = what == "infinite"
    assert broken(env) == f"environment Fails-v0, step 6 (2 of its episode): {LINES[what]}"
    assert np.isfinite(env.moments.mean).all()
    assert np.isfinite(env.moments.variance).all()


@pytest.mark.parametrize("what", ["nan", "final", "reward"])
def test_vector_environments_of_others_are_checked_too(what: str) -> None:
    vector = SyncVectorEnv([Fails, partial(Fails, what)], autoreset_mode=AutoresetMode.SAME_STEP)
    assert broken(vector) == f"environment Fails-v0, copy 2 of 2, step 12 (2 of its episode): {LINES[what]}"


def test_a_step_that_a_vector_environment_changes_the_shape_of_is_named() -> None:
    vector = SyncVectorEnv([Fails], autoreset_mode=AutoresetMode.SAME_STEP)
    stream = EnvironmentStream(vector, 0)
    none = np.zeros(1, np.bool_)
    vector.step = lambda actions: (np.zeros((1, 3)), np.zeros(1), none, none, {})  # type: ignore[method-assign]
    with pytest.raises(
        EnvironmentFailure, match=r"observations are float64 of shape \(1, 3\); their space states float32 of shape"
    ):
        stream.advance(act)


def test_a_first_reset_that_fails_is_named() -> None:
    with pytest.raises(EnvironmentFailure, match=r"^environment F, reset at step 0: the observation is nan at index 0; "):
        EnvironmentStream(SyncVector([partial(Fails, "reset", 0)]), 0, "F")


@pytest.mark.filterwarnings("ignore:MuJoCo")
def test_diverged_physics_is_named() -> None:
    stream = EnvironmentStream(SyncVector([DmcEnv]), 0, "cartpole-swingup")
    stream.env.envs[0].unwrapped._suite.physics.data.qvel[:] = np.nan  # type: ignore[attr-defined]
    with pytest.raises(
        EnvironmentFailure, match=r"^environment cartpole-swingup, step 1 \(1 of its episode\): it raised Physics"
    ):
        stream.advance(lambda _: torch.zeros(1, 1))


def test_rewards_that_are_numbers_in_disguise_are_taken() -> None:
    given = (1, True, np.float64(1), np.ones(1), np.array([[1.0]]), torch.ones(()), np.float16(1), "1")
    assert [finite_reward(reward) for reward in given] == [1.0] * len(given)


def test_lines_are_short() -> None:
    assert one_line("a\n\n b\tc") == "a b c"
    assert len(one_line("x" * 1000)) == 303
    assert described(ValueError()) == "ValueError"


@pytest.mark.parametrize("agent", ["dqn", pytest.param("ppo", marks=pytest.mark.slow)])
def test_a_run_ends_with_the_line_and_its_last_checkpoint(agent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gymnasium.register("Test/Fails-v0", partial(Fails, at=47))
    own = ["agent.warmup_env_steps=10", "agent.batch_size=8"] if agent == "dqn" else ["agent.rollout_steps=10"]
    words = [
        f"agent={agent}",
        *own,
        "env=gym",
        "env.id=Test/Fails-v0",
        "env.kwargs.what=infinite",
        "network.widths=[8]",
        "steps=100",
    ]
    words += ["checkpoint.every_steps=20", "metrics=none", "probe.every_steps=0", "progress=false", f"run_dir={tmp_path / 'run'}"]
    threads = torch.get_num_threads()
    try:
        code = run_agent.main(words)
    finally:
        torch.set_num_threads(threads)
        gymnasium.registry.pop("Test/Fails-v0")
    assert code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"stopped: environment Test/Fails-v0, step 47 (3 of its episode): {LINES['infinite']}. The run, up to")
    path = latest_checkpoint(tmp_path / "run")
    assert path is not None
    state = load_checkpoint(path)
    assert state["step"] == 40
    rows = state["agent"].get("replay", {}).get("rows", {})
    assert all(bool(torch.as_tensor(value).isfinite().all()) for value in rows.values())
