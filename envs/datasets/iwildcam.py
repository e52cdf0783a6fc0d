"""Camera-trap images by location: iWildCam2020 in the form of WILDS, a file ``metadata.csv`` and the images in ``train/``."""

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from plasticity.envs.datasets.dataset_files import DatasetError, data_root

NAME: Final = "iwildcam_v2.0"
METADATA: Final = "metadata.csv"
IMAGES: Final = "train"  # holds the images of all splits
PHOTOGRAPHS: Final = 203_029  # of the whole data set (Koh et al. 2021, "WILDS")
_COLUMNS: Final = ("filename", "location_remapped", "split", "y")
TRAIN, TEST = "train", "id_test"  # the latter are of the same cameras, on other days
_SPLITS: Final = (TRAIN, "val", "test", "id_val", TEST)


class Photograph(NamedTuple):
    """An image's file name and its label."""

    file: str
    label: int


class Metadata(NamedTuple):
    """The content of ``metadata.csv``.

    Attributes:
        classes: Labels, one more than the largest of all rows.
        photographs: By location, then by split, in the order of the file.
    """

    classes: int
    photographs: Mapping[int, Mapping[str, list[Photograph]]]


def find_folder(folder: Path | None) -> Path:
    """Returns the folder of the data: the given one, or ``iwildcam_v2.0`` in it or in the folder of all data sets.

    Raises:
        DatasetError: There is no ``metadata.csv``; the message names every way to provide it.
    """
    root = data_root() if folder is None else folder.expanduser()
    places = [root / NAME] if folder is None else [root, root / NAME]
    for place in places:
        if (place / METADATA).is_file():
            return place
    looked = " and ".join(map(str, places))
    raise DatasetError(
        f"iWildCam is not available: no {METADATA} in {looked}. Download {NAME} of WILDS (wilds.stanford.edu, 12 GB) and let "
        f"env.data_folder name the folder with {METADATA} and {IMAGES}/, or put it at {data_root() / NAME}, or point "
        f"PLASTICITY_DATA at a folder whose {NAME}/ holds them"
    )


def read_metadata(path: Path) -> Metadata:
    """Reads ``metadata.csv``; prints a line to standard error if photographs are missing.

    Raises:
        DatasetError: A column is missing, a row is damaged, or the file is no such text.
    """
    photographs: dict[int, dict[str, list[Photograph]]] = {}
    classes = count = 0
    try:
        for location, split, photograph in _rows(path):
            photographs.setdefault(location, {}).setdefault(split, []).append(photograph)
            classes, count = max(classes, photograph.label + 1), count + 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is damaged: expected a table in UTF-8, found: {error}") from None
    if count != PHOTOGRAPHS:
        print(f"note: {path} has {count} photographs, all of {NAME} are {PHOTOGRAPHS}; results are for these", file=sys.stderr)
    return Metadata(classes, photographs)


def _rows(path: Path) -> Iterator[tuple[int, str, Photograph]]:
    """Yields location, split and photograph of every row."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, strict=True)
        missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise DatasetError(f"{path} has no column {missing[0]!r}; it needs {', '.join(_COLUMNS)}")
        for row in rows:
            try:
                location, label = int(row["location_remapped"]), int(row["y"])
            except (TypeError, ValueError):
                location = label = -1
            # A row that is cut short has None in its last columns, and one that is too long has the rest under None.
            if label < 0 or not row["filename"] or row["split"] not in _SPLITS or None in row or None in row.values():
                raise DatasetError(
                    f"{path}, line {rows.line_num}: expected a file name, numbers location_remapped and y, and a split among "
                    f"{', '.join(_SPLITS)}"
                )
            yield location, row["split"], Photograph(row["filename"], label)


def read_image(path: Path, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Reads an image and resizes it with bilinear interpolation; returns (3, side, side).

    Raises:
        DatasetError: The file is missing or damaged.
    """
    from PIL import Image  # imported here, because few data sets are files of pictures

    try:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # the library raises each of them
        raise DatasetError(f"{path} is missing or damaged: {error}") from None
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))
