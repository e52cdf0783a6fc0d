"""Files of runs as a bundle holds them: without folders of the machine, and with relative paths from branches to parents."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from plasticity.training.reports.reading.folders import PLAN, load_yaml
from plasticity.training.saving.run_folder import CONFIG, PROVENANCE

EVENTS: Final = "events.jsonl"


class Moved:
    """Maps folders and their files to what a bundle holds.

    Args:
        roots: Place in the bundle of each folder that is packed, by its place on the machine.
    """

    def __init__(self, roots: Mapping[Path, str]) -> None:
        self._roots = {folder.resolve(): place for folder, place in roots.items()}

    def content(self, path: Path, place: str) -> Path | bytes:
        """Returns what the bundle holds of a file: the file itself where nothing in it changes.

        Args:
            path: The file.
            place: Its folder in the bundle.
        """
        if path.name == CONFIG:
            return self._config(path, place)
        if path.name == PROVENANCE:
            return self._provenance(path, place)
        if path.name in (PLAN, EVENTS):
            return self._told_from(path)
        return path

    def _config(self, path: Path, place: str) -> bytes:
        """Returns a run's settings without the folder that it had on its machine, and with its parent as a relative path."""
        try:
            config = load_yaml(path)
            parent = config["branch"]["run"]
        except (ValueError, KeyError, TypeError):
            return _without_place(path.read_bytes())
        config["branch"]["run"] = self._seen(str(parent), path.parent, place)
        return _without_place(yaml.safe_dump(config, sort_keys=False).encode())

    def _provenance(self, path: Path, place: str) -> Path | bytes:
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            parent = known["branch"]["run"]
        except (OSError, ValueError, KeyError, TypeError):
            return path
        seen = self._seen(str(parent), path.parent, place)
        changed = _in_texts(known, lambda text: text.replace(str(parent), seen))
        return json.dumps(changed, indent=2).encode()

    def _told_from(self, path: Path) -> bytes:
        """Returns a file of a study with its folders relative to the study's."""
        data = path.read_bytes()
        for folder in {path.parent, path.parent.absolute(), path.parent.resolve()}:
            data = data.replace(f"{folder}/".encode(), b"") if folder.is_absolute() else data
        return data

    def _seen(self, parent: str, run: Path, place: str) -> str:
        """Returns the path in the bundle from a run to its parent; the parent's name if the bundle does not have it."""
        there = (run / parent).resolve()
        for root, inside in self._roots.items():
            if there.is_relative_to(root):
                return Path(os.path.relpath(Path(inside) / there.relative_to(root), place)).as_posix()
        return there.name


def _without_place(config: bytes) -> bytes:
    return re.sub(rb"(?m)^run_dir: .*$", b"run_dir: .", config, count=1)


def _in_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_texts(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_in_texts(each, change) for each in value]
    return change(value) if isinstance(value, str) else value
