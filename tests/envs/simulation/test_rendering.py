"""Pictures of environments: rendered, or made of what they show."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from plasticity.envs.environments.atari import AtariSettings
from plasticity.envs.environments.bandit import BanditSettings
from plasticity.envs.environments.catch import CatchEnv
from plasticity.envs.environments.dmc import DmcEnv, DmcSettings
from plasticity.envs.environments.gym_stream import GymSettings
from plasticity.envs.simulation.rendering import Camera


class RenderedCatch(CatchEnv):
    """Catch with a picture: red, but for the number of steps in the corner."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, broken: bool = False) -> None:
        super().__init__()
        self.render_mode, self.broken = render_mode, broken
        if broken:
            self.model = None

    def render(self) -> Any:
        if self.broken:
            raise AttributeError("no screen\nnor anything else")
        picture = np.zeros((4, 6, 3), np.uint8)
        picture[..., 0] = 255
        picture[0, 0] = self.elapsed
        return picture if self.render_mode == "rgb_array" else None


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("plasticity/RenderedCatch-v0", RenderedCatch)
    yield
    del gymnasium.registry["plasticity/RenderedCatch-v0"]


def pictures(settings: Any, steps: int) -> tuple[Camera, list[Any]]:
    camera, taken = Camera(settings, 0), []
    camera.stream.restart(0)

    def act(observations: torch.Tensor) -> torch.Tensor:
        taken.append((camera.picture(observations), observations))
        return torch.ones(1, dtype=torch.int64)

    for _ in range(steps):
        camera.stream.advance(act)
    camera.close()
    return camera, taken


def test_an_environment_that_renders_is_rendered() -> None:
    camera, taken = pictures(GymSettings(id="plasticity/RenderedCatch-v0"), 3)
    assert camera.pictures_per_second == 12
    assert [picture.shape for picture, _ in taken] == [(4, 6, 3)] * 3
    assert [picture[0, 0].tolist() for picture, _ in taken] == [[0] * 3, [1] * 3, [2] * 3]
    assert taken[0][0][1, 1].tolist() == [255, 0, 0]


def test_a_failing_renderer_is_reported_in_one_line_with_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"^the environment cannot be rendered here: no screen; .* MUJOCO_GL=egl") as error:
        pictures(GymSettings(id="plasticity/RenderedCatch-v0", kwargs={"broken": True}), 1)
    assert "\n" not in str(error.value)


def test_the_control_suite_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(DmcSettings(), 0)
    monkeypatch.setattr(DmcEnv, "render", lambda env: np.full((2, 2, 3), 9) if env.render_mode == "rgb_array" else None)
    assert camera.picture(torch.zeros(1, 5)).tolist() == [[[9] * 3] * 2] * 2
    assert camera.pictures_per_second == 50


def test_an_observation_is_enlarged_by_a_whole_factor() -> None:
    _, taken = pictures(GymSettings(id="plasticity/Catch-v0"), 2)
    for picture, observations in taken:
        board = (observations[0, 0] * 255).to(torch.uint8).numpy()
        np.testing.assert_array_equal(picture, np.kron(board, np.ones((16, 16), np.uint8)))


def test_the_bandit_shows_its_image() -> None:
    camera, ((picture, observations),) = pictures(BanditSettings(), 1)
    assert camera.pictures_per_second == 5
    assert picture.shape == (160, 160)
    np.testing.assert_array_equal(picture[::20, ::20], (observations[0, 0].double() * 255).round().to(torch.uint8).numpy())


@pytest.mark.parametrize("frame_stack", [3, 4])
def test_atari_shows_the_newest_image_of_the_stack(frame_stack: int) -> None:
    camera, taken = pictures(AtariSettings(game="breakout", num_threads=1, frame_stack=frame_stack, noop_max=0), 3)
    assert camera.pictures_per_second == 15
    for picture, observations in taken:
        assert picture.shape == (168, 168)
        np.testing.assert_array_equal(picture[::2, ::2], observations[0, -1].numpy())
    assert not np.array_equal(taken[0][1][0, 0].numpy(), taken[0][1][0, -1].numpy())


def test_what_is_neither_rendered_nor_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to film: the environment does not render, and shows Box"):
        Camera(GymSettings(id="plasticity/DiscreteIdentity-v0"), 0)
