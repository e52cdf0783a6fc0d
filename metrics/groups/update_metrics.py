"""Metrics of a recent update, the first or the last hundredth, as it was traced."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor

from plasticity.metrics.measures.activity import dormant_fraction
from plasticity.metrics.measures.churn import policy_churn, policy_mean_churn, value_churn
from plasticity.metrics.metric import Measured, Number, metric, reason_without_layers
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView
from plasticity.networks.network import Network

GRAMA_THRESHOLD: Final = 0.01
_NOT_YET: Final = "no update has been traced yet"


def _traced(views: Sequence[PartView], what: str) -> Measured:
    """Reports the norms of the last traced update; of several parts, the joint one."""
    values: Measured = {}
    squares: list[Tensor] = []
    for view in views:
        norms = view.part.trace.norms
        for block in view.part.network.blocks:
            entries = [norms[f"{what}/{name}"] for name in block.parameters if f"{what}/{name}" in norms]
            if entries:
                joint = torch.stack([torch.as_tensor(entry) for entry in entries]).norm()
                values[f"/{view.name}/{block.name}"] = joint
        if what in norms:
            squares.append(torch.as_tensor(norms[what]).square())
    pooled: Number = torch.stack(squares).sum().sqrt() if squares else Undefined(_NOT_YET)
    return {"": pooled} | values


def _quotient(sums: Tensor) -> Number:
    return sums[0] / sums[1] if float(sums[1]) else Undefined("all parameters were 0")


def grama_scores(magnitudes: Tensor) -> Tensor:
    """Returns each unit's mean |gradient| relative to its layer's mean (GraMa, Liu et al. 2025).

    Args:
        magnitudes: Mean |gradient| of the weights into each unit, (U,).

    Returns:
        (U,), at least 0 with mean 1; 0 in a layer that gets no gradient at all.
    """
    mean = magnitudes.double().mean()
    return (magnitudes.double() / mean).masked_fill(mean == 0, 0.0)


_norm = partial(metric, of="agent", range="0 and up", default=True)
_share = partial(metric, range="0 to 1", direction="rises", cost="one pass over the gradients", default=True)
_churned = partial(metric, of="parts", direction="rises", cost="two forwards in every hundredth update, made anyway")


@_norm("gradient_norm", direction="shrinks or explodes", cost="one pass over the gradients")
def _gradient_norm(views: Sequence[PartView]) -> Measured:
    """Norm of the gradient of the last traced update (every 100th is), before clipping."""
    return _traced(views, "gradient")


@_share("gradient_zero_fraction", of="parameters", summary=_quotient)
def _zero_sums(view: PartView, names: list[str]) -> Tensor | Undefined:
    """Fraction of the entries of that gradient that are exactly 0, without normalisation."""
    zeros = view.part.trace.details
    known = [name for name in names if f"zeros/{name}" in zeros]
    if not known:
        return Undefined(_NOT_YET)
    count = sum(view.part.network.get_parameter(name).numel() for name in known)
    found = torch.stack([zeros[f"zeros/{name}"].double() for name in known]).sum()
    return torch.stack([found, torch.full_like(found, count)])


@_share("grama_fraction", of="agent")
def _grama(views: Sequence[PartView]) -> Measured:
    """Fraction of units whose share of their layer's mean |gradient| is at most 0.01 (GraMa, Liu et al. 2025)."""
    values: Measured = {}
    pool: list[Tensor] = []
    for view in views:
        for layer in view.part.network.units.layers:
            magnitudes = view.part.trace.details.get(f"magnitude/{layer.name}")
            if magnitudes is not None:
                scores = grama_scores(magnitudes)
                values[f"/{view.name}/{layer.name}"] = dormant_fraction(scores, GRAMA_THRESHOLD)
                pool.append(scores)
    has_layers = any(view.part.network.units.layers for view in views)
    reason = _NOT_YET if has_layers else reason_without_layers(views)
    return {"": dormant_fraction(torch.cat(pool), GRAMA_THRESHOLD) if pool else Undefined(reason)} | values


@_norm("update_norm", direction="shrinks or explodes", cost="one copy of the parameters")
def _update_norm(views: Sequence[PartView]) -> Measured:
    """Norm of what the optimizer changed in the last traced update."""
    return _traced(views, "optimizer")


def _root_quotient(sums: Tensor) -> Number:
    value = _quotient(sums)
    return value.sqrt() if isinstance(value, Tensor) else value


@metric(
    "update_ratio",
    of="parameters",
    summary=_root_quotient,
    range="0 and up",
    direction="shrinks or explodes",
    cost="as update_norm, shared",
    default=True,
)
def _ratio_sums(view: PartView, names: list[str]) -> Tensor | Undefined:
    """That norm over the norm of the parameters before it, without normalisation."""
    norms, sizes = view.part.trace.norms, view.part.trace.details
    known = [name for name in names if f"optimizer/{name}" in norms and f"parameter/{name}" in sizes]
    if not known:
        return Undefined(_NOT_YET)
    change = torch.stack([torch.as_tensor(norms[f"optimizer/{name}"]).double().square() for name in known]).sum()
    return torch.stack([change, torch.stack([sizes[f"parameter/{name}"].double().square() for name in known]).sum()])


@_norm("intervention_update_norm", direction="none", cost="one copy of the parameters")
def _intervention_norm(views: Sequence[PartView]) -> Measured:
    """Norm of what the interventions changed after it."""
    return _traced(views, "intervention")


@_churned("policy_churn", range="0 to 1")
def _policy_churn(view: PartView) -> float:
    """Fraction of other inputs whose greedy action, or class, one update changed, interventions included."""
    return _churn(view, policy_churn)


@_churned("policy_mean_churn", range="0 and up")
def _policy_mean_churn(view: PartView) -> float:
    """Mean squared change that one update made to the means of a Gaussian policy on other inputs."""
    return _churn(view, policy_mean_churn)


@_churned("value_churn", range="0 and up")
def _value_churn(view: PartView) -> float:
    """Mean absolute change that one update made to the values of other inputs."""
    return _churn(view, value_churn)


def _churn(view: PartView, of: Callable[[Network, Tensor, Tensor], float]) -> float:
    outputs = view.part.trace.outputs
    return Undefined("fewer than 100 updates were made") if outputs is None else of(view.part.network, *outputs)
