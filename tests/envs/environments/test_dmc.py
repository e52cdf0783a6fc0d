import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from dm_control import suite
from gymnasium.utils.env_checker import check_env

from plasticity.envs.environments.dmc import DmcEnv, DmcSettings, task_names
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.factory import build_stream
from plasticity.envs.simulation.sync_vector import SyncVector

CPU = torch.device("cpu")
# These write into the model when an episode begins, remember something themselves, or have unusual physics.
NEEDS_GRAPHICS = "quadruped-escape"
WITH_MEMORY = (
    "acrobot-swingup",
    "cheetah-run",
    "dog-run",
    "finger-turn_hard",
    "fish-swim",
    "humanoid-run",
    "manipulator-insert_peg",
    "point_mass-hard",
    "swimmer-swimmer6",
)


def build(seed: int, **settings: Any) -> EnvironmentStream:
    stream, _ = DmcSettings(**settings).build(seed, CPU)
    assert isinstance(stream, EnvironmentStream)
    return stream


@pytest.mark.parametrize("task", ["cartpole-swingup", "reacher-hard", "finger-spin"])
def test_gymnasium_checker_finds_nothing_to_warn_of(task: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*infinity")  # the suite gives its observations no bounds
        check_env(gymnasium.make("plasticity/DeepMindControl-v0", task=task).unwrapped, skip_render_check=True)


def test_observations_and_rewards_are_the_suites() -> None:
    ours = DmcEnv("walker-walk")
    first, _ = ours.reset(seed=1)
    theirs = suite.load("walker", "walk", task_kwargs={"random": np.random.RandomState(0)})
    theirs.task.random.seed(int(gymnasium.utils.seeding.np_random(1)[0].integers(2**32)))
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(first, flat(theirs.reset()))
    for _ in range(30):
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        after = theirs.step(action)
        observation, reward, *_ = ours.step(action)
        np.testing.assert_array_equal(observation, flat(after))
        assert reward == after.reward


def flat(step: Any) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in step.observation.values()]).astype(np.float32)


def test_an_action_is_held_and_rewards_are_summed() -> None:
    once, twice = DmcEnv("cartpole-balance"), DmcEnv("cartpole-balance", action_repeat=2)
    for env in (once, twice):
        env.reset(seed=0)
    for value in (0.3, -0.8, 1.0):
        action = np.array([value], np.float32)
        singles = [once.step(action) for _ in range(2)]
        observation, reward, *_ = twice.step(action)
        np.testing.assert_array_equal(observation, singles[1][0])
        assert reward == singles[0][1] + singles[1][1]


@pytest.mark.parametrize(("repeat", "steps"), [(1, 1000), (3, 334)])
def test_every_end_is_a_truncation_at_the_time_limit(repeat: int, steps: int) -> None:
    env = DmcEnv("pendulum-swingup", action_repeat=repeat)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(steps)]
    assert ends == [(False, False)] * (steps - 1) + [(False, True)]


def test_actions_are_scaled_to_the_suites_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    env = DmcEnv("cartpole-balance")
    env.reset(seed=0)
    env._low, env._high = np.array([2.0]), np.array([6.0])
    taken: list[float] = []
    step = env._suite.step
    monkeypatch.setattr(env._suite, "step", lambda action: (taken.append(float(action[0])), step(action))[1])
    for value in (-1.0, 0.0, 0.5, 1.0):
        env.step(np.array([value], np.float32))
    assert taken == [2.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize("task", WITH_MEMORY)
def test_a_saved_task_goes_on_bit_for_bit(task: str, goes_on_exactly: Any) -> None:
    def short(seed: int) -> EnvironmentStream:
        make = lambda: gymnasium.wrappers.TimeLimit(DmcEnv(task), 10)  # noqa: E731
        return EnvironmentStream(SyncVector([make]), seed)

    assert goes_on_exactly(short, 14, 25)


def test_the_seed_decides_the_stream(play: Any, same: Any) -> None:
    first, again, other = (play(build(seed, task="fish-swim"), 5) for seed in (0, 0, 1))
    assert all(map(same, first, again))
    assert not any(map(same, first, other))


def test_the_problem_of_a_task() -> None:
    stream, problem = build_stream(DmcSettings(task="reacher-easy", action_repeat=2, num_envs=2), 0, CPU)
    assert problem[:6] == ("environment", 2, False, False, (-1.0, -1.0), (1.0, 1.0))
    assert (stream.input_shape, stream.input_dtype) == ((6,), torch.float32)


def test_tasks_follow_each_other_and_resume_exactly(play: Any, goes_on_exactly: Any) -> None:
    settings = {"tasks": ["walker-stand", "walker-run"], "steps_per_task": 20, "num_envs": 2}
    assert build_stream(DmcSettings(**settings), 0, CPU)[1].announces_tasks  # type: ignore[arg-type]
    seen = play(build(0, **settings), 25)
    assert [e.task for e in seen] == [0] * 10 + [1] * 10 + [2] * 5
    assert [step for step, e in enumerate(seen, 1) if e.batch.truncated.all()] == [10, 20]
    assert goes_on_exactly(lambda _: build(0, normalise_observations=True, **settings), 13, 12)


def test_physics_shifts_work_here_too(goes_on_exactly: Any) -> None:
    settings = {"task": "hopper-hop", "shift": "gravity", "shift_values": [1.0, 0.2], "change_every_steps": 1000}
    stream = build(0, **settings)
    stream.env.envs[0].load_state_dict({"steps": 1000, "number": 1})  # type: ignore[attr-defined]
    assert stream.env.envs[0].unwrapped.model.opt.gravity[2] == pytest.approx(-9.81 * 0.2)  # type: ignore[attr-defined]
    assert goes_on_exactly(lambda seed: build(seed, **settings), 1005, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "humanod-run"}, "task=humanod-run is unknown; the nearest valid names are humanoid-run"),
        ({"tasks": ["walker-walk", "wlker-run"]}, "task=wlker-run is unknown; the nearest valid names are walker-run"),
        ({"tasks": ["walker-walk", "hopper-hop"]}, r"same shapes.* walker-walk \(24,\) \(6,\), hopper-hop \(15,\) \(4,\)"),
        ({"tasks": ["walker-walk"], "shift": "gravity"}, "choose one of the two"),
        ({"action_repeat": 0}, "action_repeat=0 must be at least 1"),
        ({"shift": "wind"}, "shift=wind is unknown"),
    ],
)
def test_impossible_settings_get_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_stream(DmcSettings(**settings), 0, CPU)


def test_a_task_that_cannot_be_loaded_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no graphics library\nand more")

    monkeypatch.setattr(suite, "load", fail)
    with pytest.raises(ValueError, match=r"^task=quadruped-escape cannot be loaded: no graphics library$"):
        DmcEnv(NEEDS_GRAPHICS)


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in task_names() if task != NEEDS_GRAPHICS])
def test_every_task_loads_and_resumes(task: str, goes_on_exactly: Any) -> None:
    assert goes_on_exactly(lambda seed: build(seed, task=task), 5, 5)
