"""Docstrings and settings as Markdown: escaped text, tables, cards."""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from typing import Final

from plasticity.settings.fields import Described, describe

_CODE: Final = re.compile(r"(``[^`]+``|`[^`]+`)")
_SECTION: Final = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
# What a card says of a method begins with one of these, at the start of a line or behind a full stop.
LABELS: Final = (
    "Paper",
    "Papers",
    "Equation",
    "Deviations",
    "Published variants",
    "Published code",
    "Code for transformers",
    "State",
    "Optimizer",
    "Target networks",
    "Cost",
    "Cost at every update",
    "Does not work with",
)
_LABEL: Final = re.compile(rf"(?:(?<=^)|(?<=[.;)] ))((?:{'|'.join(LABELS)})(?:, [a-z ]+)?): ")


def escaped(text: str) -> str:
    """Returns text that Markdown shows as it is, but for its code spans, which stay."""
    return "".join(part if number % 2 else _escaped(part) for number, part in enumerate(_CODE.split(text)))


def _escaped(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("{", "&#123;"), ("|", "&#124;")):
        text = text.replace(character, entity)
    return re.sub(r"([\\*_\[\]])", r"\\\1", text)


def code(text: object) -> str:
    """Returns a code span; empty for no text."""
    return f"`{text}`" if str(text) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(' '.join(each.split()) for each in line)} |" for line in lines) + "\n"


def card(doc: str | None) -> str:
    """Returns a docstring as paragraphs, each label of a card in bold and on a line of its own.

    Sections on arguments and attributes are left out: they document the code, not what a user chooses.
    """
    return "\n\n".join(_labelled(block) for block in _blocks(inspect.cleandoc(doc or "")))


def _blocks(text: str) -> Iterator[str]:
    """Yields paragraphs on one line each, list items, and code blocks as they are."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.splitlines()
        if not lines or _SECTION.match(lines[0]):
            continue
        if all(line.startswith("    ") for line in lines) or any(line.lstrip().startswith("- ") for line in lines):
            yield paragraph
            continue
        labelled = _LABEL.sub(r"\n\1: ", " ".join(line.strip() for line in lines))
        yield from (line.strip() for line in labelled.splitlines() if line.strip())


def _labelled(block: str) -> str:
    if block.startswith("    "):
        return block
    label = _LABEL.match(block)
    return escaped(block) if label is None else f"**{label[1]}:** {escaped(block[label.end() :])}"


def settings_table(cls: type, *, section: str = "", leave_out: Sequence[str] = ()) -> str:
    """Returns the settings of a class: name, default, range, doc.

    Args:
        cls: A dataclass of settings.
        section: Put before each name, ``probe`` say.
        leave_out: Names that are not shown.
    """
    rows = [_row(entry, section) for name, entry in describe(cls).items() if name not in leave_out]
    return table(("setting", "default", "allowed", "meaning"), rows) if rows else "No settings.\n"


def _row(entry: Described, section: str) -> tuple[str, ...]:
    name = f"{section}.{entry.name}" if section else entry.name
    return code(name), shown(entry.default), escaped(entry.rule.allowed()), escaped(entry.rule.doc)


def shown(default: object) -> str:
    """Returns a default as the command line writes it."""
    if is_dataclass(default):
        return "its defaults"
    if default is None or isinstance(default, bool):
        return code({None: "null", True: "true", False: "false"}[default])
    if isinstance(default, list | tuple):
        return code(f"[{','.join(str(each) for each in default)}]")
    return code(default if default != "" else '""')


def number(value: float) -> str:
    """Returns a number with commas between thousands."""
    return f"{value:,}"
