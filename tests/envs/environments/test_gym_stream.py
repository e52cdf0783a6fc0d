from typing import Any

import pytest
import torch

from plasticity.envs.environments.gym_stream import GymSettings
from plasticity.envs.factory import build_stream

CPU = torch.device("cpu")


def test_discrete_problem() -> None:
    stream, problem = build_stream(GymSettings(num_envs=3), 0, CPU)
    assert problem[:6] == ("environment", 2, True, False, (), ())
    assert (stream.input_shape, stream.input_dtype) == ((4,), torch.float32)
    assert stream.advance(lambda observations: torch.zeros(len(observations), dtype=torch.int64)).batch[0].shape == (3, 4)


def test_continuous_problem_has_bounds() -> None:
    _, problem = build_stream(GymSettings(id="Pendulum-v1"), 0, CPU)
    assert problem[:6] == ("environment", 1, False, False, (-2.0,), (2.0,))


def test_arguments_reach_the_environment() -> None:
    settings = GymSettings(id="plasticity/InfiniteHorizon-v0", kwargs={"continuous": True})
    assert build_stream(settings, 0, CPU)[1].action_low == (-1.0,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (GymSettings(id="CartPol-v1"), "id=CartPol-v1 is unknown; the nearest valid names are CartPole-v1, CartPole-v0"),
        (GymSettings(id="catch"), "id=catch is unknown; the nearest valid names are .*plasticity/Catch-v0"),
        (GymSettings(id="no_such_module:Env-v0"), "id=no_such_module:Env-v0 cannot be made: .*no_such_module"),
        (GymSettings(kwargs={"colour": 1}), "id=CartPole-v1 cannot be made: .*colour"),
        (GymSettings(id="FrozenLake-v1"), "observation space must be a Box, got Discrete"),
    ],
)
def test_impossible_settings_get_one_line(settings: GymSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build_stream(settings, 0, CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"num_envs": 0}, {"reward_discount": 1.0}, {"image_layout": "channel_first"}])
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    (name, value) = next(iter(changes.items()))
    with pytest.raises(ValueError, match=rf"^env\.{name}={value} "):
        GymSettings(**changes)
