"""Heatmaps over the run, averaged over seeds: firing rates of all units, or a metric by layer."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Drawing, Sheet, joined, shown
from plasticity.training.reports.figures.layers import FiringRates, Map, grouped, layers_of, scalar_layers, scalar_map
from plasticity.training.reports.specification import Figure

_ROWS = 7  # names at the vertical axis
_COLUMNS = 5  # numbers at the horizontal one


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws one panel for each condition, method and group of layers.

    Raises:
        ValueError: Nothing of that name was measured by layer, or no layer belongs to a residual block.
    """
    maps = _maps(comparison, figure)
    if not maps:
        raise ValueError(f"no run that counts has {figure.value or 'heatmaps of firing rates (heatmap.csv)'}")
    firing = _is_firing(figure)
    one = len(comparison.conditions) == 1
    titles = [": ".join(part for part in (place[1:] if one else place) if part) for place in maps]
    rows = list(next(iter(maps.values())).rows)
    height = 2.3 if firing else 0.6 + 0.22 * max(len(each.rows) for each in maps.values())
    sheet = Sheet(titles, size=(3.0, height), labels=rows, right=0.95)
    top = max((np.nanmax(each.values) for each in maps.values() if np.isfinite(each.values).any()), default=1.0)
    low = 0.0 if firing else min(np.nanmin(each.values) for each in maps.values() if np.isfinite(each.values).any())
    alts, frames = [], []
    for axes, (place, each), title in zip(sheet.axes, maps.items(), titles, strict=True):
        image = draw_map(axes, each, float(low), float(top))
        bar = sheet.figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.04, 1)))
        bar.ax.tick_params(labelsize=7.5)
        frames.append(_frame(each, place))
        alts.append(f"Heatmap, {title}: {_told(each, figure, place, numbers)}; mean of {each.n} runs.")
    n = sorted({each.n for each in maps.values()})
    what = "Share of the units (colour) that fire so often (rows)" if firing else f"{figure.value} (colour) by layer (rows)"
    caption = (
        f"{what} over the steps of the run, the mean over {joined(n)} runs. White: not measured. One colour scale for all panels."
    )
    measured = {place[0] for place in maps}
    missing = [name for name in shown("condition", figure.conditions, comparison.conditions) if name not in measured]
    caption += f" Not measured: {joined(missing)}." if missing else ""
    return Drawing(sheet.figure, sheet.panels(alts), pd.concat(frames, ignore_index=True), caption)


def draw_map(axes: Axes, shown_map: Map, low: float, high: float) -> AxesImage:
    """Draws one map, its first row below."""
    image = axes.imshow(
        shown_map.values, origin="lower", aspect="auto", vmin=low, vmax=high, cmap="viridis", interpolation="nearest"
    )
    rows, columns = shown_map.values.shape
    chosen = sorted({round(place) for place in np.linspace(0, rows - 1, min(rows, _ROWS))}) if rows > 2 * _ROWS else range(rows)
    axes.set_yticks(list(chosen), [shown_map.rows[row] for row in chosen])
    steps = sorted({round(place) for place in np.linspace(0, columns - 1, min(columns, _COLUMNS))})
    axes.set_xticks(steps, [f"{shown_map.steps[step]:,.0f}" for step in steps])
    axes.set_xlabel("step")
    return image


def _is_firing(figure: Figure) -> bool:
    return not figure.value or "heatmap" in figure.value


def _maps(comparison: Comparison, figure: Figure) -> dict[tuple[str, str, str], Map]:
    rates = FiringRates(comparison, figure.value) if _is_firing(figure) else None
    names = rates.names() if rates is not None else scalar_layers(comparison, figure.value)
    layers = layers_of(names, figure.layers)
    groups: dict[str, list[str] | None] = {"": layers if figure.layers or rates is None else None}
    if figure.group == "block_relu":
        blocks = grouped(layers)
        if not all(blocks.values()):
            raise ValueError(
                f"group=block_relu: no layer with a second ReLU, <block>_sum, was measured; there are {joined(layers)}"
            )
        groups = dict(blocks)
    found = {}
    for condition in shown("condition", figure.conditions, comparison.conditions):
        for method in shown("method", figure.methods, comparison.methods):
            runs = comparison.cell(condition, method).index
            for group, members in groups.items():
                each = (
                    rates.map(runs, members) if rates is not None else scalar_map(comparison, figure.value, runs, members or [])
                )
                if each is not None:
                    found[condition, method, group] = each
    return found


def _frame(each: Map, place: tuple[str, str, str]) -> pd.DataFrame:
    table = pd.DataFrame(each.values.T, index=pd.Index(each.steps, name="step"), columns=each.rows)
    table = table.reset_index().melt("step", var_name="row", value_name="value")
    return table.assign(condition=place[0], method=place[1], group=place[2], n=each.n)


def _told(each: Map, figure: Figure, place: tuple[str, str, str], numbers: Numbers) -> str:
    """Returns the first and last column in words, of firing rates the units that never fire; the numbers are written down."""
    told = []
    for row, name in enumerate(each.rows[:1] if _is_firing(figure) else each.rows):
        ends = []
        for what, column in (("first", 0), ("last", -1)):
            groups = {
                "condition": place[0],
                "method": place[1],
                "layers": place[2],
                "row": name,
                "step": f"{each.steps[column]:g}",
            }
            id = "/".join(["heatmap", figure.id, *place, name, what])
            value = float(each.values[row, column])
            ends.append(numbers.add(id, groups, each.n, each.n, value, None, f"mean over runs of the {what} column"))
        told.append(f"{name} {ends[0]} at first, {ends[1]} at last")
    return "; ".join(told)
