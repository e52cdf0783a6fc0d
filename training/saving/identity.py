"""What makes two runs the same run: their settings, without where and how they are computed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

LEFT_OUT: Final = (
    "run_dir",
    "resume",
    "progress",
    "threads",
    "device",
    "mode",
    "video",
    "checkpoint",
    "choices",
    "agent.replay_folder",
    "env.keep_on",
    "branch.run",
)


def identity(config: Mapping[str, Any], plugins: Mapping[str, str | None] | None = None) -> str:
    """Returns the SHA-256 of a run's settings; of two runs with the same, one is enough.

    Left out are folders, progress, threads, device, mode, checkpoints, and the words by which groups were chosen, because the
    settings that these stand for are included. A whole number is the same as a number and as a float, so that a config in memory
    and its file agree.

    Args:
        config: The resolved config.
        plugins: SHA-256 of each plugin's file, by its path; they stand in for the paths. None keeps the paths.
    """
    kept = {key: value for key, value in config.items() if key not in LEFT_OUT}
    for place in LEFT_OUT:
        section, _, key = place.partition(".")
        if key and isinstance(kept.get(section), Mapping):
            kept[section] = {name: value for name, value in kept[section].items() if name != key}
    if plugins is not None:
        kept["plugins"] = sorted(str(digest) for digest in plugins.values())
    return hashlib.sha256(json.dumps(_plain(kept), sort_keys=True).encode()).hexdigest()


def plugin_digests(files: Mapping[str, str | None]) -> dict[str, str | None]:
    """Returns the plugins among the ``files`` of ``provenance.json``; the content of YAML files is already in the settings."""
    return {place: digest for place, digest in files.items() if not place.endswith(".yaml")}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
