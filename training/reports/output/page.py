"""The page: one file with its images inside, which needs no script and nothing from the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from string import Template
from typing import Final
from urllib.parse import quote

import pandas as pd

from plasticity.training.reports.analysis.findings import Findings
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Drawing
from plasticity.training.reports.output.branch_tables import BRANCH_TABLES
from plasticity.training.reports.output.elements import (
    bullets,
    definitions,
    linked_picture,
    paragraph,
    picture,
    run_item,
    section,
    text,
)
from plasticity.training.reports.output.tables import Table, to_html
from plasticity.training.reports.specification import Figure

MOST_BYTES: Final = 13_000_000  # of figures within the page, which stays below 15 MB
SECTIONS: Final = {
    "curves": "curves", "heatmap": "curves", "mosaic": "curves", "matrix": "curves", "series": "curves",
    "differences": "differences", "final": "differences", "dose": "differences", "scatter": "relations",
    "gains": "differences", "predictors": "relations",
}  # fmt: skip
_PLACED: Final = ("main", "differences", "relations", "loss", "tuning", "cost", *BRANCH_TABLES)
_MOST_VALUES: Final = 12  # of a setting, that the page shows
_TEMPLATE: Final = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Content:
    """What stands on a page.

    Attributes:
        comparison: The runs.
        found: The answers and tables' numbers.
        tables: By id: ``main``, ``differences``, ``relations``, ``loss``, ``tuning``, ``cost``, and those that the settings ask
            for.
        drawings: Figures with their drawings and PNG, in their order.
        not_drawn: Why a figure was not drawn, by title.
        runs: As the report lists them: folders and words relative to the page.
        outcomes: Of each run, as printed.
    """

    comparison: Comparison
    found: Findings
    tables: Mapping[str, Table]
    drawings: list[tuple[Figure, Drawing, bytes]]
    runs: pd.DataFrame
    outcomes: Mapping[int, str]
    not_drawn: Mapping[str, str] = field(default_factory=dict)


def page(content: Content) -> str:
    """Returns the page as HTML."""
    comparison = content.comparison
    pictures = _pictures(content)
    own = [to_html(table) for id, table in content.tables.items() if id not in _PLACED]
    answers = "\n".join(paragraph(answer, "answer") for answer in content.found.answers)
    published = bullets(content.found.published)
    papers = f"<h3>Next to the paper</h3>{published}" if published else ""
    missing = [f"{title} is not drawn: {why}." for title, why in content.not_drawn.items()]
    parts = [
        ("answer", "Answer", [answers, bullets(comparison.notes)]),
        ("warnings", "Warnings", [bullets([*comparison.warnings, *missing], "warnings") or paragraph("None.")]),
        ("table", "Outcome", [*_table(content, "main"), papers, *_table(content, "gains"), *own, *_table(content, "loss")]),
        ("curves", "Curves and layers", pictures["curves"]),
        ("differences", "Differences", [*_table(content, "differences"), *pictures["differences"]]),
        ("recovery", "Recovery", _table(content, "recovery")),
        ("relations", *_relations(content, pictures["relations"])),
        ("tuning", "Tuning", _table(content, "tuning")),
        ("cost", "Cost", _table(content, "cost")),
        ("runs", "All runs", [_runs(content)]),
        ("settings", "Settings", [_settings(comparison)]),
    ]
    made = {id: section(id, title, inside) for id, title, inside in parts}
    links = "".join(f'<a href="#{id}">{text(title)}</a>' for id, title, _ in parts if made[id])
    return template().substitute(
        title=text(comparison.title),
        about=paragraph(comparison.about, "about") + paragraph(_scope(comparison), "about"),
        navigation=links,
        content="\n".join(each for each in made.values() if each),
        footer='Every number on this page is in <a href="report.json">report.json</a> with its groups, runs, formula and seeds; '
        'all measured values are in <a href="data/values.csv.gz">data/values.csv.gz</a>, runs in <a href="data/runs.csv">'
        "data/runs.csv</a>, tables in <code>tables/</code>, figures in <code>figures/</code>.",
    )


@cache
def template() -> Template:
    """Returns the page without its title, text about it, navigation, content and footer."""
    return Template(_TEMPLATE.read_text(encoding="utf-8"))


def _relations(content: Content, pictures: list[str]) -> tuple[str, list[str]]:
    """Returns title and parts of the section on what correlates with the outcome, or for branches, on what predicts gains."""
    title = "What correlates with the outcome" if content.found.branches is None else "What predicts the gains"
    return title, [*_table(content, "relations"), *_table(content, "predictors"), *pictures]


def _table(content: Content, id: str) -> list[str]:
    table = content.tables.get(id)
    return [to_html(table)] if table is not None and table.rows else []


def _pictures(content: Content) -> dict[str, list[str]]:
    """Returns the figures of each section; those that would make the page too large are linked."""
    found: dict[str, list[str]] = {name: [] for name in SECTIONS.values()}
    used = 0
    for figure, drawing, png in content.drawings:
        title = figure.title or figure.id
        whole = picture(figure.id, title, drawing, png)
        if used + len(whole) > MOST_BYTES:
            whole = linked_picture(figure.id, title, drawing)
        used += len(whole)
        found[SECTIONS[figure.kind]].append(whole)
    return found


def _scope(comparison: Comparison) -> str:
    runs = comparison.runs
    terms = comparison.terms
    seeds = runs["seed"].dropna().nunique() if comparison.branches is None else runs.loc[runs["remedy"] != "", "parent"].nunique()
    counts = {terms.condition: len(comparison.conditions), terms.method: len(comparison.methods), terms.seed: seeds}
    told = ", ".join(
        f"{n} {name if n == 1 else terms.methods if name == terms.method else f'{name}s'}" for name, n in counts.items()
    )
    branches = runs["remedy"] != ""
    which = {"runs": runs} if comparison.branches is None else {"branches": runs[branches], "trunks": runs[~branches]}
    counted = " and ".join(f"{int(rows['counted'].sum())} of {len(rows)} {name}" for name, rows in which.items())
    return f"{told}; {counted} count. Baseline: {comparison.baseline}."


def _runs(content: Content) -> str:
    items = []
    for run, row in content.runs.iterrows():
        shown = {name: row[name] for name in ("condition", "method", "state", "why_not", "words")}
        shown["seed"] = _whole(row["seed"])
        shown["reached"] = f"{_whole(row['step'])} of {_whole(row['steps'])}"
        shown["repeat"] = "" if pd.isna(row.get("repeat")) or not row["repeat"] else f", repeat {row['repeat']}"
        outcome = f"{content.comparison.outcome.name} {content.outcomes[int(str(run))]}"
        items.append(run_item(shown, outcome, quote(f"{row['folder']}/")))
    seen = "Paths in these lines are relative to the folder of this page." if "parent" in content.runs else ""
    return f'{paragraph(seen, "note")}<ol class="runs plain">{chr(10).join(items)}</ol>'


def _settings(comparison: Comparison) -> str:
    varied = {str(name): _values_of(comparison, comparison.settings[name]) for name in comparison.settings}
    parts = [f"<h3>What varies</h3>{definitions(varied)}"] if varied else []
    if comparison.config:
        shared = definitions(comparison.config)
        parts.append(f"<details><summary>The {len(comparison.config)} settings that all runs share</summary>{shared}</details>")
    return "\n".join(parts)


def _values_of(comparison: Comparison, values: pd.Series) -> str:
    """Returns the values of a setting, each with the methods, conditions or both that have it."""
    table = comparison.runs[["condition", "method"]].assign(value=values)
    by = next((name for name in ("method", "condition") if table.groupby(name)["value"].nunique().max() == 1), "")
    table["place"] = table[by] if by else table["condition"] + " " + table["method"]
    groups = table[table["value"] != ""].groupby("value", sort=False)["place"].unique()
    told = [f"{value} ({_some(list(places))})" for value, places in groups.items()]
    return "; ".join(told) if len(told) <= _MOST_VALUES else f"{len(told)} values, in report.json"


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def _whole(value: object) -> str:
    return "–" if pd.isna(value) else str(int(value))  # type: ignore[call-overload]
