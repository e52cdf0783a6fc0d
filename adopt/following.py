"""Following the channels of layers through operations that make no new ones."""

from collections import Counter
from dataclasses import replace
from math import prod
from typing import Any

from torch import fx

from plasticity.adopt.channels import POST, PRE, UNKNOWN, Channels, Run
from plasticity.adopt.layer import Layer
from plasticity.adopt.operations import SUMS, has_positions
from plasticity.adopt.tracing import Traced, line_of, shape_of


class ChannelFollower:
    """Keeps which channels every value of a forward holds.

    Args:
        traced: The forward.

    Attributes:
        layers: Every map by name, in forward order, heads among them.
    """

    def __init__(self, traced: Traced) -> None:
        self.layers: dict[str, Layer] = {}
        self._traced = traced
        self._values: dict[fx.Node, Channels] = {}
        self._mixed: dict[fx.Node, set[str]] = {}  # layers that a value was mixed from
        self._calls = Counter(traced.module_of(node)[0] for node in traced.graph.nodes if node.op == "call_module")

    def _sources(self, node: fx.Node) -> tuple[str, ...]:
        return self._values[node].sources if node in self._values else ()

    def _pool(self, node: fx.Node, name: str) -> None:
        value = self._input(node)
        if value is None:
            return
        dimensions = len(shape_of(node.all_input_nodes[0]) or ())
        pool = self._traced.module_of(node)[1] if name else node.target
        if value.axis != 1 or any(run.span > 1 for run in value.runs) or not has_positions(pool, dimensions):
            self._mix(node, f"pooled along its units{at_line(node)}")
            return
        made_by = name if name and len(value.runs) == 1 and self._calls[name] == 1 else ""
        self._values[node] = Channels(tuple(run.altered(made_by) for run in value.runs), 1)

    def _average(self, node: fx.Node) -> None:
        """The mean over positions."""
        value = self._input(node)
        if value is None:
            return
        before, after = shape_of(node.all_input_nodes[0]) or (), shape_of(node) or ()
        given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis"))
        axes = [given] if isinstance(given, int) else list(given) if isinstance(given, list | tuple) else []
        averaged = {axis % len(before) for axis in axes if isinstance(axis, int)}
        positions = value.axis == 1 and averaged == set(range(2, len(before))) and prod(after[2:]) == 1 and bool(averaged)
        if not positions:
            self._mix(node, f"averaged{at_line(node)}")
            return
        self._values[node] = Channels(tuple(run.altered() for run in value.runs), 1)

    def _pass(self, node: fx.Node) -> None:
        value = self._input(node)
        if value is not None:
            self._values[node] = Channels(tuple(run.altered() for run in value.runs), value.axis)

    def _reshape(self, node: fx.Node) -> None:
        value = self._input(node)
        if value is None:
            return
        before, after = shape_of(node.all_input_nodes[0]) or (), shape_of(node) or ()
        if after == before:
            self._values[node] = value
        elif value.axis == 1 and len(after) == 2 and after == (before[0], prod(before[1:])):
            self._values[node] = value.flattened(prod(before[2:]))
        else:
            self._mix(node, f"put into another shape{at_line(node)}")

    def _negate(self, node: fx.Node) -> None:
        value = self._input(node)
        if value is None:
            return
        if any(run.stage == POST or run.negated for run in value.runs if run.source != UNKNOWN):
            self._mix(node, f"negated{at_line(node)}")
            return
        self._values[node] = Channels(tuple(replace(run, negated=True) for run in value.runs), value.axis)

    def _join(self, node: fx.Node) -> None:
        parts: Any = node.args[0] if node.args else node.kwargs.get("tensors")
        axis: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        shape = shape_of(node) or ()
        if not isinstance(parts, list | tuple) or not all(isinstance(part, fx.Node) for part in parts):
            self._mix(node, f"joined{at_line(node)}")
            return
        axis = axis % len(shape) if shape else 0
        runs: list[Run] = []
        for part in parts:
            value = self._values.get(part)
            if value is None:
                size = (shape_of(part) or (0,) * (axis + 1))[axis]
                runs.append(Run(UNKNOWN, size))
            elif value.axis != axis:
                self._mix(node, f"joined along another axis{at_line(node)}")
                return
            else:
                runs += value.runs
        if all(run.source == UNKNOWN for run in runs):
            return
        self._values[node] = Channels(tuple(runs), axis)

    def _index(self, node: fx.Node) -> None:
        source = node.args[0]
        value = self._values.get(source) if isinstance(source, fx.Node) else None
        if value is None:
            return
        before, after = shape_of(node.all_input_nodes[0]) or (), shape_of(node) or ()
        index: Any = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        sliced = all(each is Ellipsis or isinstance(each, slice) for each in index)  # a list of numbers may change their order
        if sliced and len(after) == len(before) and after[value.axis] == before[value.axis]:
            self._values[node] = Channels(tuple(run.altered() for run in value.runs), value.axis)
        else:
            self._mix(node, f"only a part of its units is read{at_line(node)}")

    def _combine(self, node: fx.Node) -> None:
        """A sum or a product, of values or with a number."""
        sums = node.target in SUMS
        others = [each for each in node.args if isinstance(each, fx.Node)]
        tensors = [each for each in others if shape_of(each) is not None]
        if len(tensors) == 1 and len(node.args) == 2:
            value = self._values.get(tensors[0])
            if value is None:
                return
            if all(run.stage == PRE for run in value.runs) and shape_of(tensors[0]) == shape_of(node):
                self._values[node] = Channels(tuple(run.altered() for run in value.runs), value.axis)
                return
            self._mix(node, f"changed by a number{at_line(node)}")
            return
        what = "its units are summed with those of another path" if sums else "its units are multiplied by another value"
        self._mix(node, f"{what}{at_line(node)}")

    def _mix(self, node: fx.Node, reason: str) -> None:
        """Notes that an operation reads units in a way that leaves them no columns of their own."""
        for each in node.all_input_nodes:
            for name in self._sources(each):
                self.layers[name].exclude(reason)
                self._mixed[node].add(name)

    def _input(self, node: fx.Node) -> Channels | None:
        """Returns the channels of the first value that an operation takes, None if nothing is known of them."""
        inputs = node.all_input_nodes
        return self._values.get(inputs[0]) if inputs else None


def at_line(node: fx.Node) -> str:
    """Says where an operation is, "" where that is not known, as in an nn.Sequential."""
    line = line_of(node)
    return f" at {line}" if line else ""
