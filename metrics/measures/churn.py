"""What a single update did to the outputs for inputs that it was not made from."""

import torch
from torch import Tensor

from plasticity.metrics.measures.shapes import require_same_shape
from plasticity.metrics.undefined import Undefined
from plasticity.networks.heads.output_heads import PairedHead
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.torso_network import TorsoNetwork

_GREEDY = ("q", "categorical", "policy", "classification")
_VALUES = ("q", "categorical", "value", "regression")
_GAUSSIAN = ("gaussian", "squashed_gaussian")


def flipped_fraction(before: Tensor, after: Tensor) -> float:
    """Returns the share of rows whose largest entry changes place, in [0, 1]; (B, A) each, or (B, T, A) of sequences."""
    require_same_shape("before and after", before, after)
    return float((before.argmax(-1) != after.argmax(-1)).float().mean())


def mean_change(before: Tensor, after: Tensor) -> float:
    """Returns the mean |after - before| over all entries, at least 0."""
    require_same_shape("before and after", before, after)
    return float((after - before).abs().mean())


def mean_squared_change(before: Tensor, after: Tensor) -> float:
    """Returns the mean (after - before)^2 over all entries, at least 0."""
    require_same_shape("before and after", before, after)
    return float((after - before).square().mean())


def policy_churn(network: Network, before: Tensor, after: Tensor) -> float:
    """Returns the share of greedy actions, or of predicted classes, that changed."""
    for head, old, new in _heads(network, before, after):
        if head.kind in _GREEDY and old.shape[-1] > 1:
            return flipped_fraction(old, new)
    return Undefined("the part does not choose between actions or classes")


def policy_mean_churn(network: Network, before: Tensor, after: Tensor) -> float:
    """Returns the mean squared change of the means of a Gaussian policy."""
    for head, old, new in _heads(network, before, after):
        if head.kind in _GAUSSIAN:
            return mean_squared_change(old.chunk(2, dim=1)[0], new.chunk(2, dim=1)[0])
    return Undefined("the part is not a Gaussian policy")


def value_churn(network: Network, before: Tensor, after: Tensor) -> float:
    """Returns the mean absolute change of the values, over actions and members, or of regression outputs."""
    for head, old, new in _heads(network, before, after):
        if head.kind in _VALUES:
            return mean_change(old, new)
    return Undefined("the part has no values")


@torch.no_grad()
def _heads(network: Network, before: Tensor, after: Tensor) -> list[tuple[HeadSpec, Tensor, Tensor]]:
    """Returns each head's specification, and what its outputs stand for before and after."""
    spec = network.head_spec
    if spec.second is None:
        return [(spec, network.decode(before), network.decode(after))]
    assert isinstance(network, TorsoNetwork)
    pair = network.head
    assert isinstance(pair, PairedHead)
    (first, second), (first_after, second_after) = pair.split(before), pair.split(after)
    return [
        (spec, pair.first.decode(first), pair.first.decode(first_after)),
        (spec.second, pair.second.decode(second), pair.second.decode(second_after)),
    ]
