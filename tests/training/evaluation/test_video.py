"""Films: what the files hold, and what is said when they cannot be made."""

import sys
from collections.abc import Generator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plasticity.training.evaluation.video import MOST_GIF_PICTURES, VideoWriter


def grey(value: int, shape: tuple[int, ...] = (4, 6)) -> Any:
    return np.full(shape, value, np.uint8)


def test_a_gif_holds_the_pictures_in_their_order_and_time(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    with VideoWriter(path) as film:
        film.pictures_per_second = 10
        for value in (0, 128, 255):
            film.add(grey(value))
    with Image.open(path) as read:
        assert (read.n_frames, read.size, read.info["duration"], read.info["loop"]) == (3, (6, 4), 100, 0)
        values = []
        for number in range(3):
            read.seek(number)
            values.append(np.unique(np.asarray(read.convert("L"))).tolist())
    assert values == [[0], [128], [255]]


def test_a_gif_keeps_colours(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "film.gif") as film:
        picture = grey(0, (4, 6, 3))
        picture[:, :3] = (255, 0, 0)
        picture[:, 3:] = (0, 0, 255)
        film.add(picture)
    with Image.open(tmp_path / "film.gif") as read:
        np.testing.assert_array_equal(np.asarray(read.convert("RGB")), picture)


def test_a_gif_does_not_hold_more_than_memory_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plasticity.training.evaluation.video.MOST_GIF_PICTURES", 2)
    with VideoWriter(tmp_path / "film.gif") as film:
        for value in range(5):
            film.add(grey(value))
    assert film.count == 5
    with Image.open(tmp_path / "film.gif") as read:
        assert read.n_frames == 2
    assert MOST_GIF_PICTURES == 2000


def test_after_an_error_there_is_no_file(tmp_path: Path) -> None:
    film = VideoWriter(tmp_path / "film.gif")
    film.add(grey(1))
    film.__exit__(RuntimeError, RuntimeError(), None)
    assert list(tmp_path.iterdir()) == []


def test_mp4_names_the_extra_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plasticity.training.evaluation.video.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"film\.mp4: MP4 needs the extra video, pip install -e '\.\[video\]'"):
        VideoWriter(tmp_path / "film.mp4")


def test_mp4_gets_colour_pictures_of_even_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    settings: dict[str, Any] = {}

    def write_frames(path: str, size: tuple[int, int], **options: Any) -> Generator[None, Any, None]:
        settings.update(options, path=path, size=size)
        try:
            while True:
                sent.append((yield))
        finally:
            settings["closed"] = True

    encoder = ModuleType("imageio_ffmpeg")
    encoder.__spec__ = ModuleSpec("imageio_ffmpeg", None)
    encoder.write_frames = write_frames  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", encoder)
    with VideoWriter(tmp_path / "film.mp4") as film:
        film.pictures_per_second = 12
        for value in (7, 9):
            film.add(grey(value, (3, 5)))
    assert (settings["size"], settings["fps"], settings["closed"]) == ((6, 4), 12, True)
    assert [(picture.shape, np.unique(picture).tolist()) for picture in sent] == [((4, 6, 3), [7]), ((4, 6, 3), [9])]
