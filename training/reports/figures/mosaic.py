"""Mosaics: a heatmap of firing rates for each method, in rows, and each layer, in columns, averaged over seeds."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Drawing, Sheet, joined, name_rows, shown
from plasticity.training.reports.figures.layers import FiringRates, Map, grouped, layers_of
from plasticity.training.reports.specification import Figure

_GAP = 1  # pixels between tiles
_WIDE, _HIGH = 40, 22  # pixels of a tile


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws one panel for each condition; with ``group: block_relu`` first and second ReLUs of blocks get panels of their own.

    Raises:
        ValueError: No run has firing rates by layer.
    """
    rates = FiringRates(comparison, figure.value)
    layers = layers_of(rates.names(), figure.layers)
    if not layers:
        raise ValueError("no run that counts has heatmaps of firing rates by layer (heatmap.csv)")
    groups = {"": layers}
    if figure.group == "block_relu":
        groups = grouped(layers)
        if not all(groups.values()):
            raise ValueError(
                f"group=block_relu: no layer with a second ReLU, <block>_sum, was measured; there are {joined(layers)}"
            )
    conditions = shown("condition", figure.conditions, comparison.conditions)
    methods = shown("method", figure.methods, comparison.methods)
    maps = {
        (condition, method, layer): rates.map(comparison.cell(condition, method).index, [layer])
        for condition in conditions
        for method in methods
        for layer in layers
    }
    measured = {condition for (condition, *_), each in maps.items() if each is not None}
    places = [(condition, group) for condition in conditions if condition in measured for group in groups]
    top = max(float(np.nanmax(each.values)) for each in maps.values() if each is not None)
    widest = max(map(len, groups.values()))
    sheet = Sheet(
        [": ".join(filter(None, place)) for place in places],
        columns=1 if widest > 4 else 2,
        size=(min(9.0, max(2.5, 0.9 * widest)), 0.3 + 0.55 * len(methods)),
        labels=methods,
    )
    alts, frames = [], []
    for axes, (condition, group) in zip(sheet.axes, places, strict=True):
        found = {(method, layer): maps[condition, method, layer] for method in methods for layer in groups[group]}
        frames += [_frame(each, condition, *place) for place, each in found.items() if each is not None]
        _panel(axes, found, methods, groups[group], widest, top)
        missing = [method for method in methods if all(found[method, layer] is None for layer in groups[group])]
        told = f" Not measured: {joined(missing)}." if missing else ""
        where = ": ".join(filter(None, (condition, group)))
        alts.append(f"Mosaic of {joined(methods)} by layers {joined(groups[group])}, {where}.{told}")
    left_out = [condition for condition in conditions if condition not in measured]
    caption = (
        "Each tile is a heatmap over the run, from left to right; upwards the firing rate, from units that never fire to those "
        f"that always do; colour: share of the layer's units, 0 dark to {top:.2g} bright, the mean over seeds."
        + (f" Not measured: {joined(left_out)}." if left_out else "")
    )
    return Drawing(sheet.figure, sheet.panels(alts), pd.concat(frames, ignore_index=True), caption)


def _panel(
    axes: Axes, maps: dict[tuple[str, str], Map | None], methods: list[str], layers: list[str], columns: int, top: float
) -> None:
    """Draws methods in rows and layers in columns, of which there is room for ``columns``."""
    image = np.full((len(methods) * (_HIGH + _GAP), columns * (_WIDE + _GAP)), np.nan)
    for row, method in enumerate(methods):
        for column, layer in enumerate(layers):
            each = maps[method, layer]
            if each is not None:
                above, left = row * (_HIGH + _GAP), column * (_WIDE + _GAP)
                image[above : above + _HIGH, left : left + _WIDE] = _tile(each)
    extent = (-0.5, columns - 0.5, len(methods) - 0.5, -0.5)
    axes.imshow(image, vmin=0, vmax=top, cmap="viridis", aspect="auto", interpolation="nearest", extent=extent)
    name_rows(axes, methods)
    axes.set_xticks(range(len(layers)), [layer.rpartition("/")[2] for layer in layers], rotation=20, ha="right")


def _tile(each: Map) -> np.ndarray:
    """Returns a map as 22 by 40 pixels, its first row below; a pixel shows the value at its place."""
    rows, columns = each.values.shape
    upwards = each.values[np.arange(_HIGH) * rows // _HIGH][::-1]
    pixels: np.ndarray = upwards[:, np.arange(_WIDE) * columns // _WIDE]
    return pixels


def _frame(each: Map, condition: str, method: str, layer: str) -> pd.DataFrame:
    table = pd.DataFrame(each.values.T, index=pd.Index(each.steps, name="step"), columns=each.rows).reset_index()
    return table.melt("step", var_name="row", value_name="value").assign(
        condition=condition, method=method, layer=layer, n=each.n
    )
