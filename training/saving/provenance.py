"""Where a run comes from: code, packages, machine, and the user's files."""

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

from plasticity.training.saving.identity import plugin_digests

_ROOT: Final = Path(__file__).resolve().parents[2]
_FILES: Final = (".py", ".yaml")
_PACKAGES: Final = ("torch", "numpy", "gymnasium", "ale-py", "mujoco", "dm-control", "scikit-learn", "hydra-core", "tensorboard")


def provenance(plugins: Sequence[str] = (), settings: Sequence[Path] = ()) -> dict[str, Any]:
    """Returns git revision, whether the tree had changes, versions, machine and hashes of the user's files; None if not known.

    Args:
        plugins: Files and modules, as ``plugins=`` names them.
        settings: The user's YAML files that settings came from.
    """
    changes = _git("status", "--porcelain")
    return {
        "git_revision": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": {
            "cpu": _processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "os": platform.platform(),
        },
        "files": plugin_hashes(plugins) | {str(path.absolute()): _hash(str(path)) for path in settings},
    }


def plugin_hashes(plugins: Sequence[str]) -> dict[str, str | None]:
    """Returns the SHA-256 of the file of each plugin, by its absolute path or module; None of one that cannot be read."""
    return {place: _hash(place) for place in map(_absolute, plugins)}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Returns in words what differs, between two results of ``provenance``, that the last bits of numbers depend on."""
    pairs = [
        ("processor capability", before.get("machine", {}).get("capability"), now["machine"]["capability"]),
        ("torch", before.get("packages", {}).get("torch"), now["packages"]["torch"]),
    ]
    pairs += [
        (f"plugin {place}", before.get("files", {}).get(place), digest)
        for place, digest in plugin_digests(now["files"]).items()
        if place in before.get("files", {})
    ]
    return [f"{name} was {was}, is {is_now}" for name, was, is_now in pairs if was != is_now]


def _git(*words: str) -> str | None:
    """Returns what git reports about the project's own repository; a repository around an installed copy is another project's."""
    top = _output("rev-parse", "--show-toplevel")
    return _output(*words) if top is not None and Path(top).resolve() == _ROOT else None


def _output(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def _absolute(place: str) -> str:
    """Returns a file's absolute path, which means the same wherever the run continues; a module's name as it is."""
    return str(Path(place).expanduser().absolute()) if place.endswith(".py") else place


def _hash(place: str) -> str | None:
    """Returns the SHA-256 of a file, or of a module's; of a package, that of its ``__init__.py``."""
    try:
        spec = None if place.endswith(_FILES) else find_spec(place)
        origin = place if place.endswith(_FILES) else spec.origin if spec else None
        return None if origin is None else hashlib.sha256(Path(origin).expanduser().read_bytes()).hexdigest()
    except (OSError, ImportError, ValueError):
        return None
