"""What figures have in common: a sheet of panels of fixed size, and colours that stay those of a method.

A sheet is one figure for files; the page cuts it into its panels, which it sets next to each other or below each other as the
screen allows. No pyplot: it would hold figures and pick a screen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito 2008, without the yellow that white paper hides: colour-blind readers can distinguish them. Dashes and markers,
# which change with every entry, distinguish them without colour.
COLOURS: Final = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: Final[tuple[Any, ...]] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
MOST_POINTS: Final = 10  # runs of a group up to which each is shown as a point
_DPI: Final = 130
_TITLE, _BOTTOM, _RIGHT, _GAP = 0.38, 0.55, 0.2, 0.15  # inches
_LETTER: Final = 0.078  # inches that a letter of a tick label takes
_TEXT: Final = {"font.size": 9.5}


class Style(NamedTuple):
    """How one method is drawn, the same in all figures of a page.

    Attributes:
        colour: As ``#rrggbb``.
        dash: Line style of matplotlib.
        marker: Marker of matplotlib.
    """

    colour: str
    dash: Any
    marker: str


class Panel(NamedTuple):
    """One part of a sheet.

    Attributes:
        box: Left, top, right and bottom in shares of the sheet, from its upper left corner.
        width: In inches.
        alt: What it shows, for those who do not see it.
    """

    box: tuple[float, float, float, float]
    width: float
    alt: str


@dataclass(frozen=True)
class Drawing:
    """A figure and what belongs to it.

    Attributes:
        figure: All panels under a legend.
        panels: In reading order.
        data: What is drawn, as a table.
        caption: How to read it, in sentences; states what bands and bars are, and of how many runs.
        legend: Style by name, empty if there is nothing to distinguish.
    """

    figure: Figure
    panels: list[Panel]
    data: pd.DataFrame
    caption: str
    legend: dict[str, Style] = field(default_factory=dict)


def styles(names: Sequence[str]) -> dict[str, Style]:
    """Returns the style of each name, by its place in the list; the first, the baseline, is black."""
    return {
        name: Style(COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])
        for place, name in enumerate(names)
    }


class Sheet:
    """A figure of equal panels in rows.

    Args:
        titles: Of the panels, in reading order.
        columns: Panels in a row.
        size: Width and height of one panel's axes in inches.
        labels: Names that stand at the vertical axis, for which room is made; empty for numbers.
        legend: What is distinguished; it gets a strip above the panels.
        right: Inches to the right of the axes, such as for a colour bar.
    """

    def __init__(
        self,
        titles: Sequence[str],
        columns: int = 2,
        size: tuple[float, float] = (3.9, 2.5),
        labels: Sequence[str] = (),
        legend: Mapping[str, Style] | None = None,
        right: float = _RIGHT,
    ) -> None:
        self._left = 0.3 + _LETTER * min(40, max(map(len, labels))) if labels else 0.75
        self._titles, self._columns = list(titles), max(1, min(columns, len(titles)))
        self._width = self._left + size[0] + right
        self._height = _TITLE + size[1] + _BOTTOM
        rows = -(-len(self._titles) // self._columns)
        self._legend = dict(legend or {})
        lines, in_row = self._lines_of_legend()
        self._strip = 0.1 + 0.22 * lines
        total = (self._columns * self._width + _GAP, rows * self._height + self._strip)
        self.figure = Figure(figsize=total, dpi=_DPI)
        FigureCanvasAgg(self.figure)
        self.axes = [self._axes(place, size) for place in range(len(self._titles))]
        if self._legend:
            handles = [
                Line2D([], [], color=style.colour, linestyle=style.dash, marker=style.marker, markersize=4)
                for style in self._legend.values()
            ]
            self.figure.legend(
                handles, list(self._legend), loc="upper left", ncols=in_row, frameon=False, fontsize=_TEXT["font.size"]
            )

    def panels(self, alts: Sequence[str]) -> list[Panel]:
        """Returns the panels with what each shows."""
        return [Panel(self._box(place), self._width, alt) for place, alt in enumerate(alts)]

    def _lines_of_legend(self) -> tuple[int, int]:
        """Returns lines of the legend, and entries in each."""
        if not self._legend:
            return 0, 1
        entry = 0.65 + _LETTER * max(map(len, self._legend))
        in_row = max(1, int(self._columns * self._width / entry))
        return -(-len(self._legend) // in_row), in_row

    def _place(self, place: int) -> tuple[float, float]:
        """Returns the left and top of a panel in inches from the upper left corner of the sheet."""
        row, column = divmod(place, self._columns)
        return column * self._width, self._strip + row * self._height

    def _box(self, place: int) -> tuple[float, float, float, float]:
        (left, top), (width, height) = self._place(place), self.figure.get_size_inches()
        return left / width, top / height, (left + self._width) / width, (top + self._height) / height

    def _axes(self, place: int, size: tuple[float, float]) -> Axes:
        (left, top), (width, height) = self._place(place), self.figure.get_size_inches()
        bottom = height - top - _TITLE - size[1]
        axes = self.figure.add_axes(((left + self._left) / width, bottom / height, size[0] / width, size[1] / height))
        axes.tick_params(labelsize=_TEXT["font.size"] - 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(self._titles[place], fontsize=_TEXT["font.size"] + 0.5, loc="left")
        axes.xaxis.label.set_fontsize(_TEXT["font.size"])
        axes.yaxis.label.set_fontsize(_TEXT["font.size"])
        return axes


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Writes names at the vertical axis, the first on top."""
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def png_of(figure: Figure) -> bytes:
    """Returns the figure as a PNG; the same figure gives the same bytes."""
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def pdf_of(figure: Figure) -> bytes:
    """Returns the figure as a PDF without the time at which it was made."""
    file = BytesIO()
    figure.savefig(file, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return file.getvalue()


def joined(names: Sequence[object], most: int = 8) -> str:
    """Returns names in a sentence: ``a, b and c``; of more than ``most`` the first and how many there are."""
    told = [str(name) for name in names]
    if len(told) > most:
        return f"{', '.join(told[:most])} and {len(told) - most} more"
    return " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)


def _short(name: str, longest: int = 40) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def shown(kind: str, chosen: Sequence[str], there: Sequence[str]) -> list[str]:
    """Returns the chosen conditions or methods in the order of the page, all if none is chosen.

    Raises:
        ValueError: One is not there.
    """
    for name in chosen:
        if name not in there:
            raise ValueError(f"there is no {kind} {name}; there are {', '.join(there)}")
    return [name for name in there if not chosen or name in chosen]
