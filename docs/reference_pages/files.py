"""What the YAML files of ``configs/`` say: their comments, and which registered entry each starts from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from plasticity.optimizers.factory import OptimizerSettings
from plasticity.settings.fields import describe

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIGS: Final = ROOT / "configs"


class Choice(NamedTuple):
    """A file of a group.

    Attributes:
        name: The word by which it is chosen.
        comment: The paragraphs of the comment at its top.
        body: The file without this comment.
        values: What it holds.
    """

    name: str
    comment: list[str]
    body: str
    values: Mapping[str, Any]


def choices(group: str) -> dict[str, Choice]:
    """Returns the files of a group by name."""
    paths = sorted((CONFIGS / group).glob("*.yaml"))
    return {path.stem: _choice(path) for path in paths if not path.stem.startswith("_")}


def _choice(path: Path) -> Choice:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    length = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    comment = [line.removeprefix("#").strip() for line in lines[:length] if "@package" not in line]
    paragraphs = [" ".join(block.split()) for block in "\n".join(comment).split("\n\n")]
    body = "\n".join(lines[length:]).strip("\n")
    return Choice(path.stem, [block for block in paragraphs if block], body, yaml.safe_load(text) or {})


def started_from(group: str) -> dict[str, list[str]]:
    """Returns, for each registered name, the choices of a group that start from it, through other files too."""
    found: dict[str, list[str]] = {}
    known = choices(group)
    for name in known:
        found.setdefault(_base(name, known), []).append(name)
    return found


def _base(name: str, known: Mapping[str, Choice]) -> str:
    values = known[name].values
    first = next((entry for entry in values.get("defaults", []) if entry != "_self_"), "")
    if first == "_settings":  # of optimizers, whose settings name one
        return str(values.get("name", describe(OptimizerSettings)["name"].default))
    return first[1:] if first.startswith("_") else _base(first, known)
