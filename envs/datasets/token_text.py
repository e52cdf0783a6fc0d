"""Text as numbers of tokens: Tiny Shakespeare, or any text of the user's."""

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from plasticity.envs.datasets.dataset_files import DatasetError, RawFile, Source, data_root, read_or_fetch
from plasticity.envs.datasets.dataset_sources import download

NAME: Final = "tiny_shakespeare"
FILE: Final = RawFile("input.txt", "6fb458f1232090904fb40fe944165e91")
ADDRESS: Final = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
UNITS: Final = ("word", "character")
_WORD: Final = re.compile(r"\w+|[^\w\s]")


def _fetch(_: Path) -> Mapping[str, bytes]:
    return {FILE.name: download(ADDRESS)}


SOURCES: tuple[Source, ...] = (Source(f"download from {ADDRESS}", _fetch),)


class TokenText(NamedTuple):
    """A text in tokens.

    Attributes:
        tokens: (n,) int64, the number of each token in ``vocabulary``.
        vocabulary: The kinds of tokens that the text has, sorted.
    """

    tokens: Tensor
    vocabulary: tuple[str, ...]


def load_text(folder: Path | None) -> str:
    """Reads the text: a file of the user's, ``input.txt`` of a folder, or Tiny Shakespeare from the folder of all data sets.

    Prints a line to standard error if the user's text is not Tiny Shakespeare.

    Args:
        folder: The user's text with any content, or its folder with ``input.txt``, or a folder of data sets; None for
            ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``.

    Raises:
        DatasetError: There is no text, or it is damaged or not UTF-8; the message names every way to provide it.
    """
    given = None if folder is None else folder.expanduser()
    path = given if given is None or given.is_file() else given / FILE.name
    if path is not None and path.is_file():
        content = path.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != FILE.md5:
            print(f"note: {path} is not Tiny Shakespeare ({len(content)} bytes); results are for this text", file=sys.stderr)
        return _decoded(str(path), content)
    root = data_root() if folder is None else folder.expanduser()
    try:
        (content,) = read_or_fetch(NAME, root / NAME, [FILE], [FILE], SOURCES)
    except DatasetError as error:
        raise DatasetError(f"{error}; or let env.data_folder name a folder with {FILE.name}, this text or another") from None
    return _decoded(str(root / NAME / FILE.name), content)


def tokenize(text: str, unit: str) -> TokenText:
    """Cuts a text into tokens.

    Args:
        text: The text.
        unit: ``word``: words in lower case and punctuation marks, one by one, without what is between them; or ``character``.

    Raises:
        ValueError: If the unit is unknown.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    pieces = _WORD.findall(text.lower()) if unit == "word" else list(text)
    vocabulary = tuple(sorted(set(pieces)))
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    return TokenText(torch.tensor([numbers[piece] for piece in pieces], dtype=torch.int64), vocabulary)


def _decoded(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{name}: expected text in UTF-8, found: {error}") from None
