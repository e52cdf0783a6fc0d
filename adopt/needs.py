"""What each method needs of a loop that adopts it; ``python -m plasticity.adopt.needs`` writes the table of ``docs/adopt.md``."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from plasticity.adopt.adopting import why_not_adopted
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "adopt.md"
_BEGIN, _END = "<!-- table of methods: begin -->", "<!-- table of methods: end -->"
_HEAD: Final = "| method | can be adopted | reads activations | `optimizer.backward(loss)` | `step(closure)` | at task switches |"
_OUTPUTS: Final = ("churn", "dr3")  # their attach asks what outputs stand for


@dataclass(frozen=True)
class Needs:
    """What a method needs.

    Attributes:
        refused: Why it cannot be adopted, "" if it can.
        activations: Whether it reads those of the training forward.
        graph: Whether it differentiates through them.
        backward: Whether it adds to the loss.
        closure: Whether it needs the loss a second time.
        switches: Whether it can act where a task begins.
    """

    refused: str
    activations: bool
    graph: bool
    backward: bool
    closure: bool
    switches: bool


def needs_of(method: type[Intervention]) -> Needs:
    """Returns what a method needs, with its default settings."""
    plain, settings = Intervention, {field.name for field in fields(method)}
    refused = why_not_adopted(method) or ("asks what the outputs stand for" if method.name in _OUTPUTS else "")
    reads = method.needs_taps or method.needs_graph or method.measure is not plain.measure
    switches = "at_task_switch" in settings or method.task_switch is not plain.task_switch
    adds = method.loss is not plain.loss or method.term is not plain.term
    return Needs(refused, reads, method.needs_graph, adds, method.needs_recompute, switches)


def rows() -> list[str]:
    """Returns the table, in Markdown."""
    lines = [_HEAD, "|" + " --- |" * 6]
    for name in sorted(INTERVENTIONS):
        method: Any = INTERVENTIONS[name]
        if not method.__module__.startswith("plasticity."):
            continue
        needs = needs_of(method)
        if needs.refused:
            lines.append(f"| `{name}` | no: it {needs.refused} | | | | |")
            continue
        reads = "with their graph" if needs.graph else "yes" if needs.activations else ""
        marks = ["yes" if each else "" for each in (needs.backward, needs.closure, needs.switches)]
        lines.append(f"| `{name}` | yes | {reads} | {' | '.join(marks)} |")
    return lines


def page(text: str) -> str:
    """Returns the page with the table of today between its marks."""
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    return before + _BEGIN + "\n" + "\n".join(rows()) + "\n" + _END + after


if __name__ == "__main__":
    written = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv and page(written) != written:
        sys.exit(f"{PAGE} is not up to date: python -m plasticity.adopt.needs")
    PAGE.write_text(page(written), encoding="utf-8")
