import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.mujoco_stream import MujocoSettings
from plasticity.envs.factory import build_stream
from plasticity.envs.simulation.physics_shift import SHIFTS, PhysicsShift, drawn_factors
from plasticity.envs.simulation.shift import listed_values
from plasticity.envs.simulation.sync_vector import SyncVector

CPU = torch.device("cpu")
SHORT = {"max_episode_steps": 10}


def hopper(shift: str = "friction", every: int = 25, **settings: Any) -> PhysicsShift:
    return PhysicsShift(gymnasium.make("Hopper-v5", **SHORT), shift, listed_values([1.0, 0.5, 3.0]), every, **settings)


def settings(**changes: Any) -> MujocoSettings:
    values = {"id": "Hopper-v5", "kwargs": SHORT, "shift": "friction", "change_every_steps": 25}
    return MujocoSettings(**(values | changes))


def still(stream: EnvironmentStream, steps: int) -> list[Any]:
    """Holds still, so that every episode is truncated after ten steps."""
    return [stream.advance(lambda observations: torch.zeros(len(observations), 3)) for _ in range(steps)]


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_model_is_scaled_from_its_own_values_and_reverts_exactly(shift: str) -> None:
    env = hopper(shift)
    part = SHIFTS[shift](env.unwrapped.model)  # type: ignore[attr-defined]
    original = SHIFTS[shift](gymnasium.make("Hopper-v5").unwrapped.model)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(part, original)
    assert np.abs(original).max() > 0
    for number, factor in ((1, 0.5), (2, 3.0), (1, 0.5)):
        env.load_state_dict({"steps": 25 * number, "number": number})
        np.testing.assert_array_equal(part, factor * original)
    env.revert()
    np.testing.assert_array_equal(part, original)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_changes_what_happens_and_a_factor_of_one_nothing(shift: str) -> None:
    def distance(factor: float) -> Any:
        env = PhysicsShift(gymnasium.make("Ant-v5"), shift, lambda _: factor, 1000)
        env.reset(seed=0)
        return [env.step(np.full(8, 0.5))[0] for _ in range(40)][-1]

    plain = gymnasium.make("Ant-v5")
    plain.reset(seed=0)
    expected = [plain.step(np.full(8, 0.5))[0] for _ in range(40)][-1]
    np.testing.assert_array_equal(distance(1.0), expected)
    assert not np.array_equal(distance(0.3), expected)


@pytest.mark.parametrize("body", ["Ant", "HalfCheetah", "Hopper", "Humanoid", "Walker2d"])
def test_every_body_slips_on_a_floor_of_little_friction(body: str) -> None:
    def played(factor: float) -> Any:
        env = PhysicsShift(gymnasium.make(f"{body}-v5"), "friction", listed_values([factor]), 1000)
        env.reset(seed=0)
        push = 0.5 * np.asarray(env.action_space.high)  # type: ignore[attr-defined]
        seen = [env.step(push * np.sin(step))[0] for step in range(60)]
        return np.concatenate(seen)

    np.testing.assert_array_equal(played(1.0), played(1.0))
    assert not np.array_equal(played(1.0), played(0.02))


def test_only_sliding_friction_changes() -> None:
    env = hopper()
    env.load_state_dict({"steps": 25, "number": 1})
    changed = env.unwrapped.model.geom_friction  # type: ignore[attr-defined]
    original = gymnasium.make("Hopper-v5").unwrapped.model.geom_friction  # type: ignore[attr-defined]
    np.testing.assert_array_equal(changed[:, 0], 0.5 * original[:, 0])
    np.testing.assert_array_equal(changed[:, 1:], original[:, 1:])


def test_changes_come_at_the_first_reset_after_they_are_due() -> None:
    """Episodes of ten: a change is due at 25, 50 and 75, and comes at 30, 50 and 80."""
    stream = EnvironmentStream(SyncVector([hopper]), 0)
    seen = still(stream, 100)
    assert [e.task for e in seen] == [0] * 30 + [1] * 20 + [2] * 30 + [3] * 20
    noted = {step: e.stats["stream/friction"] for step, e in enumerate(seen, 1) if "stream/friction" in e.stats}
    factors = {1: 1.0, 10: 1.0, 20: 1.0, 30: 0.5, 40: 0.5, 50: 3.0, 60: 3.0, 70: 3.0, 80: 1.0, 90: 1.0, 100: 0.5}
    assert noted == factors


def test_a_drift_moves_the_factor_step_by_step_from_one_change_to_the_next() -> None:
    """Episodes of ten: change 1 is due at 25 and comes at 30, half of its ten steps later; change 2 comes when due, at 50."""
    env = hopper(drift_steps=10)
    original = env.unwrapped.model.geom_friction[0, 0]  # type: ignore[attr-defined]
    _, info = env.reset(seed=0)
    said, felt = {0: info["stream/friction"]}, []
    for step in range(1, 71):
        *_, truncated, _ = env.step(np.zeros(3))
        felt.append(env.unwrapped.model.geom_friction[0, 0] / original)  # type: ignore[attr-defined]
        if truncated:
            _, info = env.reset()
            said[step] = info["stream/friction"]
    assert felt[:30] == [1.0] * 30
    np.testing.assert_allclose(felt[30:35], [0.5 ** (share / 10) for share in (5, 6, 7, 8, 9)])
    assert felt[35:50] == [0.5] * 15
    np.testing.assert_allclose(felt[50:60], [0.5 * 6 ** (share / 10) for share in range(10)])
    assert felt[60:70] == [3.0] * 10
    assert said == pytest.approx({0: 1.0, 10: 1.0, 20: 1.0, 30: 0.5**0.5, 40: 0.5, 50: 0.5, 60: 3.0, 70: 3.0})


def test_held_physics_stay_as_far_as_they_have_come() -> None:
    env = hopper(drift_steps=10)
    original = env.unwrapped.model.geom_friction[0, 0]  # type: ignore[attr-defined]
    env.hold(2, 0.5)
    env.reset(seed=0)
    for _ in range(30):
        if env.step(np.zeros(3))[3]:
            env.reset()
        assert env.unwrapped.model.geom_friction[0, 0] / original == pytest.approx(1.5**0.5)  # type: ignore[attr-defined]
    assert (env.number, env.share) == (2, 0.5)


def test_two_copies_count_their_steps_together() -> None:
    stream, _ = build_stream(settings(num_envs=2, shift_values=[1.0, 0.5]), 0, CPU)
    assert isinstance(stream, EnvironmentStream)
    assert [e.task for e in still(stream, 45)] == [0] * 20 + [1] * 10 + [2] * 10 + [3] * 5
    assert isinstance(stream.env, SyncVector)
    frictions = [env.unwrapped.model.geom_friction[0, 0] for env in stream.env.envs]  # type: ignore[attr-defined]
    assert frictions[0] == frictions[1]


def test_hidden_changes_are_logged_but_not_announced() -> None:
    stream, problem = build_stream(settings(announce_tasks=False), 0, CPU)
    assert isinstance(stream, EnvironmentStream)
    seen = still(stream, 60)
    assert not problem.announces_tasks
    assert {e.task for e in seen} == {0}
    assert [e.stats["stream/task"] for e in seen if "stream/task" in e.stats] == [0, 0, 0, 1, 1, 2, 2]


def test_announced_changes_make_a_problem_of_tasks() -> None:
    assert build_stream(settings(), 0, CPU)[1].announces_tasks
    assert not build_stream(settings(shift="none"), 0, CPU)[1].announces_tasks


def test_drawn_factors_are_log_uniform_and_private_to_seed_and_number() -> None:
    factor = drawn_factors(0.02, 2.0, 7, "friction")
    drawn = np.array([factor(k) for k in range(2000)])
    assert drawn.min() >= 0.02
    assert drawn.max() <= 2.0
    # log10 is uniform on [-1.699, 0.301]: mean -0.699, standard error 2 / sqrt(12 * 2000) = 0.0129
    assert abs(np.log10(drawn).mean() - (math.log10(0.02) + math.log10(2)) / 2) < 4 * 0.0129
    assert factor(5) == drawn_factors(0.02, 2.0, 7, "friction")(5)
    assert factor(5) not in (drawn_factors(0.02, 2.0, 8, "friction")(5), drawn_factors(0.02, 2.0, 7, "gravity")(5))


@pytest.mark.parametrize("drift_steps", [0, 36])
@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shifted_stream_goes_on_bit_for_bit(shift: str, drift_steps: int, goes_on_exactly: Any) -> None:
    values = settings(shift=shift, num_envs=2, shift_values=[1.0, 0.4, 1.7], change_every_steps=40, drift_steps=drift_steps)

    def build(seed: int) -> EnvironmentStream:
        stream, _ = build_stream(values, seed, CPU)
        assert isinstance(stream, EnvironmentStream)
        return stream

    assert goes_on_exactly(build, 33, 70)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": "wind"}, "shift=wind is unknown; choose from none, friction, gravity, actuator"),
        ({"shift_range": [2.0, 0.02]}, r"shift_range=\[2.0, 0.02\] must be two positive numbers, the smaller one first"),
        ({"shift_range": [0.0, 2.0]}, r"shift_range=\[0.0, 2.0\] must be"),
        ({"shift_values": [1.0, -1.0]}, r"env\.shift_values=-1\.0 must be at least 0"),
        ({"change_every_steps": 0}, "change_every_steps=0 must be at least 1"),
        ({"shift": "none", "drift_steps": 5}, "drift_steps=5 needs a shift, and shift=none"),
        ({"drift_steps": 26}, r"drift_steps=26 must lie in 0\.\.25, the change_every_steps"),
        ({"id": "CartPole-v1"}, "shift=friction needs a MuJoCo environment, CartPoleEnv is not one"),
        ({"id": "Hoper-v5"}, "id=Hoper-v5 is unknown; the nearest valid names are Hopper-v5"),
    ],
)
def test_impossible_settings_get_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_stream(settings(**changes), 0, CPU)
