"""Films as GIF or MP4."""

from collections.abc import Generator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

MOST_GIF_PICTURES: Final = 2000  # all of them are in memory
_SHORTEST_MILLISECONDS: Final = 20  # viewers slow anything faster down

Picture = npt.NDArray[np.uint8]


class VideoWriter:
    """Collects pictures of one size and writes them when it is closed; a context manager.

    GIF is written by Pillow. It holds the first 2,000 pictures; equal ones in a row become one that lasts longer. MP4 needs the
    extra ``video``; a row or column is repeated where a side is odd.

    Args:
        path: The file, ``<name>.gif`` or ``<name>.mp4``; one that exists is replaced.

    Attributes:
        pictures_per_second: Set it before the first picture.
        count: Pictures so far.

    Raises:
        ValueError: If the file is of another kind, its folder does not exist, or a package is missing.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in (".gif", ".mp4"):
            raise ValueError(f"video={path} must end in .gif or .mp4")
        if not path.parent.is_dir():
            raise ValueError(f"video={path}: there is no folder {path.parent}")
        if path.suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
            raise ValueError(f"video={path}: MP4 needs the extra video, pip install -e '.[video]'; a .gif needs nothing")
        self.path, self.pictures_per_second, self.count = path, 30.0, 0
        self._images: list[Any] = []  # of PIL, which is imported with the first
        self._encoder: Generator[None, Any, None] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Does nothing: the file appears with the first picture, or at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Finishes the file, or leaves a GIF unwritten after an error."""
        self._stack.close()
        if kind is None and self._images:
            duration = max(_SHORTEST_MILLISECONDS, round(1000 / self.pictures_per_second))
            self._images[0].save(self.path, save_all=True, append_images=self._images[1:], duration=duration, loop=0)

    def add(self, picture: Picture) -> None:
        """Adds a picture, (height, width, 3) or (height, width)."""
        self.count += 1
        if self.path.suffix == ".mp4":
            self._encode(picture)
        elif len(self._images) < MOST_GIF_PICTURES:
            from PIL import Image

            image = Image.fromarray(picture)
            self._images.append(image if image.mode == "L" else image.convert("P", palette=Image.Palette.ADAPTIVE))

    def _encode(self, picture: Picture) -> None:
        colours = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
        height, width = (side % 2 for side in colours.shape[:2])
        colours = np.pad(colours, ((0, height), (0, width), (0, 0)), mode="edge")
        if self._encoder is None:
            from imageio_ffmpeg import write_frames  # imported here, because it is an extra

            size = (colours.shape[1], colours.shape[0])
            encoder = write_frames(str(self.path), size, fps=self.pictures_per_second, macro_block_size=2, quality=8)
            self._stack.callback(encoder.close)
            encoder.send(None)
            self._encoder = encoder
        self._encoder.send(np.ascontiguousarray(colours))
