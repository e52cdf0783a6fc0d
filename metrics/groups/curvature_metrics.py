"""Metrics of what a step along the gradient does to units, and of the null space of single gradients."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from plasticity.metrics.log_values import Matrix
from plasticity.metrics.measures.gradients import loss_gram, nullspace_ratio, tangent_gram
from plasticity.metrics.measures.update_signs import gradient_moves, sign_agreement
from plasticity.metrics.metric import Measured, Number, metric, of_units
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import LayerView, PartView

_of_moves = partial(metric, of="agent", range="0 to 1", direction="rises at a change of the problem")


@_of_moves("update_sign_agreement", cost="two backward passes of 256 inputs with a graph")
def _agreement(views: Sequence[PartView]) -> Measured:
    """Mean over the units that a gradient step moves of the share of inputs on which it moves them the same way."""

    def of_moving(units: Tensor) -> Number:
        moving = units[units > 0]
        return moving.mean() if len(moving) else Undefined("the gradient moves no unit")

    return _signs(views, lambda units: units, of_moving)


@_of_moves("uniform_update_fraction", cost="as update_sign_agreement, shared")
def _uniform(views: Sequence[PartView]) -> Measured:
    """Fraction of units whose pre-activation a gradient step moves the same way on every input."""
    return _signs(views, lambda units: (units == 1).float(), torch.mean)


def _signs(views: Sequence[PartView], of: Callable[[Tensor], Tensor], summary: Callable[[Tensor], Number]) -> Measured:
    moves = {id(layer): view.once("moves of a gradient step", gradient_moves) for view in views for layer in view.layers}

    def per_unit(layer: LayerView) -> Tensor | Undefined:
        own = moves[id(layer)]
        if isinstance(own, Undefined):
            return own
        return of(sign_agreement(own[layer.name])) if layer.name in own else Undefined("the layer has no parameters before it")

    return of_units(views, per_unit, summary)


@metric("nullspace_ratio", of="parts", range="0 to 1", direction="rises", cost="as gradient_cosine, shared")
def _nullspace(view: PartView) -> float:
    """Share of the latest 50 examples' gradients, each scaled to length 1, that lies in the null space: 1 - rank / examples."""
    gram = view.once("gram of the gradients", loss_gram)
    return gram if isinstance(gram, Undefined) else nullspace_ratio(gram)


@metric("ntk_matrix", of="agent", range="any number", direction="shows blocks", cost="as ntk_effective_rank, shared")
def _kernels(views: Sequence[PartView]) -> Measured:
    """Matrix of the empirical neural tangent kernel of the sum of the outputs, on 50 inputs in the order of the sample."""
    values: Measured = {}
    for view in views:
        kernel = view.once("tangent kernel", tangent_gram)
        if isinstance(kernel, Undefined):
            values[f"/{view.name}"] = kernel
        else:
            largest = float(kernel.abs().max())
            values[f"/{view.name}"] = Matrix(kernel, -largest, largest, "input")
    return values
