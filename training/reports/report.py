"""From folders of runs, or a bundle, to a report."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from plasticity.training.reports.analysis.at_branch import unequal_at_branch
from plasticity.training.reports.analysis.findings import Findings, find
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import run_outcome, uneven_rows, without_outcome
from plasticity.training.reports.comparison import Comparison, read_comparison
from plasticity.training.reports.figures import draw
from plasticity.training.reports.figures.default import default_figures
from plasticity.training.reports.figures.drawing import Drawing, png_of
from plasticity.training.reports.figures.layers import damaged_heatmaps
from plasticity.training.reports.output.branch_tables import branch_tables
from plasticity.training.reports.output.bundle import UNPACKED, unpack_bundle, write_bundle
from plasticity.training.reports.output.chosen_tables import (
    chosen_table,
    cost_table,
    difference_table,
    loss_table,
    main_table,
    relation_table,
    tuning_table,
)
from plasticity.training.reports.output.page import Content, page
from plasticity.training.reports.output.tables import Table
from plasticity.training.reports.output.writing import (
    PAGE,
    REPORT,
    claim,
    seen_from,
    told_runs,
    write_figure,
    write_page,
    write_report,
    write_runs,
    write_tables,
    write_values,
)
from plasticity.training.reports.specification import Figure


def report(folders: Sequence[Path], out: Path | None = None, bundle: Path | None = None, baseline: str | None = None) -> Path:
    """Makes the report of all runs in folders, or of one bundle, and returns its page.

    Args:
        folders: Grids, studies, single runs, folders that hold any of them; or one ``.zip`` that ``bundle`` wrote.
        out: Folder of the report, a new one or that of an earlier report; None for ``report`` in the folder, for
            ``reports/<names>`` of several folders, and for ``<name>_report`` next to a bundle.
        bundle: File to pack runs and report into, or None.
        baseline: Method that the others are compared with; None for the study's, otherwise ``none`` or the first.

    Raises:
        ValueError: A folder holds no run, a file is no bundle, the settings of the report are wrong, or it cannot be written.
    """
    folders = [Path(folder) for folder in folders]
    if not folders:
        raise ValueError("report= needs the folder of a grid, a study or a run")
    packed = [folder for folder in folders if folder.suffix == ".zip" and folder.is_file()]
    if packed and len(folders) > 1:
        raise ValueError(f"report={packed[0]}: a bundle is reported alone, not with other folders")
    out, chosen = out or _default_out(folders), {} if baseline is None else {"baseline": baseline}
    if packed:
        claim(out)
        shutil.rmtree(out / UNPACKED, ignore_errors=True)  # of an earlier bundle
        places, names, spec = unpack_bundle(packed[0], out / UNPACKED)
        comparison = read_comparison(places, spec, **{**names, **chosen})
    else:
        places, comparison = list(folders), read_comparison(folders, None, **chosen)
    made = make_report(comparison, out)
    if bundle is not None:
        write_bundle(Path(bundle), places, comparison, out)
    return made


def make_report(comparison: Comparison, folder: Path) -> Path:
    """Writes the report of a comparison into a folder and returns its page.

    Raises:
        ValueError: The folder holds something that is no report.
    """
    claim(folder)
    more = [*without_outcome(comparison), *unequal_at_branch(comparison), *uneven_rows(comparison)]
    comparison = replace(comparison, warnings=[*more, *comparison.warnings])
    numbers = Numbers()
    found = find(comparison, numbers)
    tables = _tables(comparison, found, numbers)
    drawn, not_drawn = _drawn(comparison, numbers, folder / "figures")
    if any(figure.kind in ("heatmap", "mosaic") for figure, *_ in drawn):
        comparison = replace(comparison, warnings=[*comparison.warnings, *damaged_heatmaps(comparison)])
    outcomes = {outcome.name: run_outcome(comparison, outcome) for outcome in (comparison.outcome, *comparison.spec.also)}
    texts = _run_numbers(comparison, outcomes[comparison.outcome.name], numbers, folder)
    content = Content(comparison, found, tables, drawn, told_runs(comparison, folder), texts, not_drawn)
    write_tables(tables, folder / "tables")
    write_values(comparison, folder / "data" / "values.csv.gz")
    write_runs(comparison, outcomes, folder / "data" / "runs.csv")
    write_report(comparison, found, numbers, {figure.id: each for figure, each, _ in drawn}, not_drawn, folder / REPORT)
    write_page(page(content), folder / PAGE)
    return folder / PAGE


def _default_out(folders: Sequence[Path]) -> Path:
    if len(folders) > 1:
        return Path("reports") / "+".join(folder.resolve().name for folder in folders)
    if folders[0].suffix == ".zip":
        return folders[0].with_name(f"{folders[0].stem}_report")
    return folders[0] / "report"


def _tables(comparison: Comparison, found: Findings, numbers: Numbers) -> dict[str, Table]:
    made = [main_table(comparison, found), *(chosen_table(comparison, spec, numbers) for spec in comparison.spec.tables)]
    made += [
        difference_table(comparison, found),
        relation_table(found),
        loss_table(comparison, found),
        tuning_table(comparison, numbers),
        cost_table(comparison, found),
        *branch_tables(comparison, found),
    ]
    return {table.id: table for table in made}


def _drawn(comparison: Comparison, numbers: Numbers, folder: Path) -> tuple[list[tuple[Figure, Drawing, bytes]], dict[str, str]]:
    """Draws and writes the figures; returns them, and why others were not drawn."""
    drawn, not_drawn = [], {}
    for figure in comparison.spec.figures or default_figures(comparison):
        try:
            drawing = draw(comparison, figure, numbers)
        except ValueError as error:
            not_drawn[figure.title or figure.id] = str(error).rstrip(".")
            continue
        png = png_of(drawing.figure)
        write_figure(figure, drawing, png, folder)
        drawn.append((figure, drawing, png))
    return drawn, not_drawn


def _run_numbers(comparison: Comparison, outcomes: pd.Series, numbers: Numbers, report: Path) -> dict[int, str]:
    found = {}
    for run, row in comparison.runs.iterrows():
        groups = {name: str(row[name]) for name in ("condition", "method")}
        groups["folder"] = seen_from(row["folder"], report)
        seeds = [] if pd.isna(row["seed"]) else [int(row["seed"])]
        value = float(outcomes[run])
        groups["outcome"] = comparison.outcome.name
        text = numbers.add(f"run/{run}", groups, int(row["counted"]), 1, value, None, "outcome of one run", seeds, digits=4)
        found[int(str(run))] = text
    return found
