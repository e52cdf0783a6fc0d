"""From the graph of a forward to the unit graph: which units have slices of their own, which have not, and why."""

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx, nn

from plasticity.adopt.channels import POST, PRE, UNKNOWN, Channels, Run
from plasticity.adopt.following import ChannelFollower, at_line
from plasticity.adopt.layer import Layer, norm_slices
from plasticity.adopt.operations import (
    JOINING,
    MAPS,
    NEGATIONS,
    NORMS,
    PASSING,
    PASSING_FUNCTIONS,
    PASSING_METHODS,
    POOLING_FUNCTIONS,
    POOLS,
    PRODUCTS,
    QUESTION_FUNCTIONS,
    QUESTIONS,
    RESHAPING_FUNCTIONS,
    RESHAPING_METHODS,
    SUMS,
    TRANSPOSED,
    Nonlinearity,
    has_positions,
    nonlinearity_of,
)
from plasticity.adopt.tracing import ROOT, Traced, shape_of
from plasticity.networks.units import Consumer, UnitSlice


class Reader(ChannelFollower):
    """Follows the channels of every layer through a forward.

    Args:
        traced: The forward.

    Attributes:
        layers: Every map by name, in forward order, heads among them.
        without_batch: Name of a map that got inputs without a batch axis, "" if all had one.
        direct: Names of the parameters and buffers that the forward reads itself, not through the module that has them.
    """

    def __init__(self, traced: Traced) -> None:
        super().__init__(traced)
        self.without_batch = ""
        self.direct: set[str] = set()
        for node in traced.graph.nodes:
            self._read(node)
        for name, layer in self.layers.items():
            if self._calls[name] > 1:
                layer.exclude(f"it is called {self._calls[name]} times in one forward")
            if layer.stages == {PRE, POST}:
                layer.exclude("it is read both before and behind its non-linearity")
            if layer.output and layer.consumers:
                layer.exclude("its units are handed out of the module too, and what reads them there is not known")

    def _read(self, node: fx.Node) -> None:
        self._mixed[node] = {name for each in node.all_input_nodes for name in self._mixed[each]}
        if node.op == "call_module":
            self._module(node)
        elif node.op in ("call_function", "call_method"):
            self._operation(node)
        elif node.op == "get_attr":
            self.direct.add(str(node.target).removeprefix(f"{ROOT}."))
        elif node.op == "output":
            for each in node.all_input_nodes:
                for name in (*self._sources(each), *self._mixed[each]):
                    self.layers[name].output = True

    def _module(self, node: fx.Node) -> None:
        name, module = self._traced.module_of(node)
        nonlinearity = nonlinearity_of(node, module)
        if name in self._traced.altered:
            self._mix(node, f"changed by a hook on {name or 'the module'}")
        elif isinstance(module, MAPS):
            self._map(node, name, module)
        elif nonlinearity is not None:
            self._activate(node, nonlinearity, name)
        elif isinstance(module, NORMS):
            self._norm(node, name, module)
        elif isinstance(module, POOLS):
            self._pool(node, name)
        elif isinstance(module, nn.Flatten):
            self._reshape(node)
        elif isinstance(module, PASSING):
            self._pass(node)
        else:
            self._mix(node, f"read by {name or 'the module'}, a {type(module).__name__}")

    def _operation(self, node: fx.Node) -> None:
        target: Any = node.target
        method = node.op == "call_method"
        nonlinearity = nonlinearity_of(node, None)
        if target in (QUESTIONS if method else QUESTION_FUNCTIONS):
            self._mixed[node] = set()
        elif nonlinearity is not None:
            self._activate(node, nonlinearity)
        elif target in (PASSING_METHODS if method else PASSING_FUNCTIONS):
            self._pass(node)
        elif target in (RESHAPING_METHODS if method else RESHAPING_FUNCTIONS):
            self._reshape(node)
        elif not method and target in POOLING_FUNCTIONS:
            self._pool(node, "")
        elif target == "mean" if method else getattr(target, "__name__", "") == "mean":
            self._average(node)
        elif target == "neg" if method else target in NEGATIONS:
            self._negate(node)
        elif not method and target in JOINING:
            self._join(node)
        elif not method and target is operator.getitem:
            self._index(node)
        elif not method and target in SUMS + PRODUCTS:
            self._combine(node)
        else:
            self._mix(node, f"read by {target if method else getattr(target, '__name__', target)}")

    def _map(self, node: fx.Node, name: str, module: Any) -> None:
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        for mixed in self._mixed[node]:
            self.layers[mixed].hidden = True
        self._mixed[node] = set()
        if source is not None and source in self._values:
            self._consume(node, name, module, self._values[source], shape_of(source) or ())
        transposed = isinstance(module, TRANSPOSED)
        linear = isinstance(module, nn.Linear)
        units = int(module.weight.shape[1 if transposed else 0])
        if getattr(module, "groups", 1) != 1 and transposed:
            units = int(module.out_channels)
        layer = self.layers.setdefault(name, Layer(name, module, units))
        if getattr(module, "groups", 1) != 1 and transposed:
            layer.exclude("the rows of a transposed convolution in groups are not its units")
        shape = shape_of(node) or ()
        if len(shape) < (2 if linear else module.weight.ndim):
            self.without_batch = name or type(module).__name__
        run = Run(name, units, units, made_by=name if self._calls[name] == 1 else "")
        self._values[node] = Channels((run,), len(shape) - 1 if linear else 1)

    def _consume(self, node: fx.Node, name: str, module: Any, value: Channels, shape: Sequence[int]) -> None:
        """Notes that a map reads what a value holds."""
        linear, where = isinstance(module, nn.Linear), f"{name}{at_line(node)}"
        for source in value.sources:
            self.layers[source].hidden = True
            runs = [(start, run) for start, run in value.starts() if run.source == source]
            layer, reason = self.layers[source], ""
            if value.axis != (len(shape) - 1 if linear else 1):
                reason = f"{where} reads it along another axis"
            elif getattr(module, "groups", 1) != 1:
                reason = f"{where} reads it in groups"
            elif self._calls[name] > 1:
                reason = f"{name}, which reads it, is called {self._calls[name]} times in one forward"
            elif len({(run.stage, run.span) for _, run in runs}) > 1:
                reason = f"{where} reads it in two forms"
            elif sorted(run.copy for _, run in runs) != list(range(len(runs))):
                reason = f"{where} reads it several times"
            elif any(run.negated or run.width != run.units * run.span for _, run in runs):
                reason = f"{where} reads a part of it or its negative"
            if reason:
                layer.exclude(reason)
                continue
            if layer.consumers and len(runs) != layer.copies:
                layer.exclude("its readers see different numbers of copies of it")
            first = runs[0][1]
            layer.copies = len(runs)
            if first.stage == PRE and layer.nonlinearity is None and layer.tap is None:
                layer.tap = first.made_by or None
            layer.stages.add(first.stage)
            if first.untouched and len(value.runs) == 1 and self._calls[name] == 1:
                layer.read_by = name
            offsets = tuple(start for start, _ in sorted(runs, key=lambda each: each[1].copy))
            axis = 0 if isinstance(module, TRANSPOSED) else 1
            columns = UnitSlice(f"{name}.weight" if name else "weight", axis, first.units, offsets, first.span)
            # A constant activation moves what is read by the sum of its columns, unless the reader sees something else of it.
            moved = axis == 1 and module.bias is not None and not any(run.normalised for _, run in runs)
            bias = (f"{name}.bias" if name else "bias") if moved else None
            layer.consumers.append(Consumer(columns, bias))

    def _activate(self, node: fx.Node, nonlinearity: Nonlinearity, module: str = "") -> None:
        value = self._input(node)
        if value is None:
            return
        runs = []
        for run in value.runs:
            layer = self.layers.get(run.source)
            if layer is None:
                runs.append(run)
                continue
            known = layer.nonlinearity
            if not nonlinearity.name:
                layer.exclude(f"what it goes through{at_line(node)} is no non-linearity that is known here")
            elif run.stage == POST or (known is not None and known.name != nonlinearity.name):
                layer.exclude("it goes through two non-linearities")
            elif run.negated and nonlinearity.name != "relu":
                layer.exclude(f"its negative goes through {nonlinearity.name}")
            if known is None:
                layer.nonlinearity = nonlinearity
            by_input = not run.made_by and bool(module) and self._calls[module] == 1 and len(value.runs) == 1
            if module and self._calls[module] == 1 and len(value.runs) == 1:
                layer.behind = module
            if layer.tap is None and not run.negated:
                layer.tap, layer.by_input = (module, True) if by_input else (run.made_by or None, False)
            behind = replace(run, stage=POST, copy=int(run.negated), negated=False, made_by="", untouched=len(value.runs) == 1)
            runs.append(behind)
        self._values[node] = Channels(tuple(runs), value.axis)

    def _norm(self, node: fx.Node, name: str, module: Any) -> None:
        value = self._input(node)
        if value is None:
            return
        size = value.width
        shape = shape_of(node) or ()
        own = tuple(getattr(module, "normalized_shape", ()))
        over = own in ((size,), tuple(shape[1:])) if own else has_positions(module, len(shape))
        axis = (
            value.axis - 1 if len(own) > 1 else 0
        )  # of its gain, which has an entry for each position where it has several axes
        if not over or (own == (size,) and value.axis != len(shape) - 1) or (not own and value.axis != 1):
            self._mix(node, f"{name}{at_line(node)} normalises it along another axis")
            return
        for start, run in value.starts():
            if run.source != UNKNOWN and not run.negated:
                self.layers[run.source].norms += norm_slices(name, module, run.units, start, run.span, axis)
        if self._calls[name] > 1:
            for source in value.sources:
                self.layers[source].exclude(f"{name}, which normalises it, is called {self._calls[name]} times in one forward")
        made_by = name if len(value.runs) == 1 and self._calls[name] == 1 else ""
        runs = [replace(run.altered(made_by), normalised=run.stage == POST) for run in value.runs]
        self._values[node] = Channels(tuple(runs), value.axis)
