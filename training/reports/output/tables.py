"""Tables of a report, in four ways of writing: CSV, Markdown, LaTeX, and HTML for the page."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from io import StringIO

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "…": r"\ldots{}",
    "−": "$-$",
    "ρ": r"$\rho$",
    "<": "$<$",
    ">": "$>$",
}
_NUMBER = re.compile(r"^[-–−]?[\d.,\s\[\]e+−-]*%?$")


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        id: Name of its files.
        title: What it shows.
        columns: Names of the columns.
        rows: One text for each column.
        bold: Places of what is bold, (row, column) from 0.
        note: What the reader must know of it, in sentences.
        names: How many columns at the left are names of rows.
    """

    id: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    note: str = ""
    names: int = 1


def to_csv(table: Table) -> str:
    """Returns the table as CSV; what is bold has a star behind it."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    for number, row in enumerate(table.rows):
        writer.writerow(f"{cell}*" if (number, column) in table.bold else cell for column, cell in enumerate(row))
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """Returns the table as GitHub writes it."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"

    rows = [
        line([f"**{cell}**" if (number, column) in table.bold else cell for column, cell in enumerate(row)])
        for number, row in enumerate(table.rows)
    ]
    sides = line([":---" if column < table.names else "---:" for column in range(len(table.columns))])
    return "\n".join(
        [f"{table.title}", "", line(list(table.columns)), sides, *rows, *(["", table.note] if table.note else []), ""]
    )


def to_latex(table: Table) -> str:
    r"""Returns the table as a LaTeX ``table`` with ``booktabs``."""
    sides = "".join("l" if column < table.names else "r" for column in range(len(table.columns)))
    rows = [
        " & ".join(
            rf"\textbf{{{latex_text(cell)}}}" if (number, column) in table.bold else latex_text(cell)
            for column, cell in enumerate(row)
        )
        + r" \\"
        for number, row in enumerate(table.rows)
    ]
    caption = " ".join(filter(None, (f"{table.title.rstrip('.')}.", table.note)))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\label{{tab:{table.id}}}",
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            " & ".join(map(latex_text, table.columns)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_html(table: Table) -> str:
    """Returns the table for the page; a narrow screen scrolls it within its own frame."""
    grouped = table.names > 1  # then the first column stands above its rows, which narrow screens need
    several = len({row[0] for row in table.rows}) > 1
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns[grouped:])
    body: list[str] = []
    for number, row in enumerate(table.rows):
        if grouped and several and (number == 0 or row[0] != table.rows[number - 1][0]):
            body.append(f'<tr class="group"><th scope="colgroup" colspan="{len(row) - 1}">{escape(row[0])}</th></tr>')
        cells = [_cell(table, number, column, cell) for column, cell in enumerate(row) if column >= grouped]
        body.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f'<table id="table-{escape(table.id)}"><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(body)}\n</tbody></table></div>{note}"
    )


def latex_text(text: str) -> str:
    """Returns a text with what LaTeX reads as commands escaped."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _cell(table: Table, row: int, column: int, text: str) -> str:
    shown = f"<strong>{escape(text)}</strong>" if (row, column) in table.bold else escape(text)
    if column < table.names:
        return f'<th scope="row">{shown}</th>'
    return f'<td class="number">{shown}</td>' if _NUMBER.match(text) else f"<td>{shown}</td>"
