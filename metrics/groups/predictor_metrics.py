"""Metrics that may predict which remedy helps a network: readiness, a trial of the next steps, and the moment's direction.

Those that draw minibatches are repeated ``metrics.repeats`` times. The value is the mean over the repeats; if there are more than
one, each is logged as well, ``<metric>_repeat_0`` and so on, pooled and by part. Repeats share the latest examples, and so differ
only by what is drawn of these.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from plasticity.metrics.measures.adam import cosine_of, moment_sums
from plasticity.metrics.measures.minibatches import gradients_of, loss_examples, trained_parameters
from plasticity.metrics.measures.readiness import (
    SquaredNorms,
    estimated_smoothness,
    minibatch_norms,
    readiness,
    reliability,
    strength,
)
from plasticity.metrics.measures.step_gain import step_gains
from plasticity.metrics.metric import Measured, mean_of, metric, of_parts
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView

_ready = partial(metric, of="agent", direction="falls", range="0 and up", cost="as gradient_reliability, shared")
_ESTIMATED = "as gradient_reliability and sharpness, shared with both"


def repeated(views: Sequence[PartView], of: Callable[[PartView], list[float] | Undefined]) -> Measured:
    """Measures every part several times.

    Args:
        views: The parts.
        of: Returns a value for each repeat, or why there is none.

    Returns:
        The mean over the repeats, and each of them if there are more than one; see the module.
    """
    each = {view.name: of(view) for view in views}

    def at(view: PartView, repeat: int) -> float:
        found = each[view.name]
        return found if isinstance(found, Undefined) else found[repeat]

    def mean(view: PartView) -> float:
        found = each[view.name]
        return found if isinstance(found, Undefined) else mean_of(found)

    values = of_parts(views, mean)
    repeats = views[0].draws.settings.repeats if views else 1
    for repeat in range(repeats if repeats > 1 else 0):
        own = of_parts(views, partial(at, repeat=repeat))
        values |= {f"_repeat_{repeat}{suffix}": value for suffix, value in own.items()}
    return values


def _from_norms(views: Sequence[PartView], of: Callable[[PartView, SquaredNorms], float]) -> Measured:
    """Measures every part from the norms of its minibatches' gradients, in each repeat."""

    def one(view: PartView) -> list[float] | Undefined:
        norms = view.once("minibatch norms", minibatch_norms)
        if isinstance(norms, Undefined):
            return norms
        return [own if isinstance(own, Undefined) else of(view, own) for own in norms]

    return repeated(views, one)


def _with_estimate(view: PartView, norms: SquaredNorms, of: Callable[[SquaredNorms, float], float]) -> float:
    smoothness = estimated_smoothness(view)
    return smoothness if isinstance(smoothness, Undefined) else of(norms, smoothness)


@_ready("gradient_reliability", range="0 to 1", cost="a backward pass for each of metrics.minibatches, 8, in each repeat")
def _reliability(views: Sequence[PartView]) -> Measured:
    """Squared norm of the mean over the mean squared norm of the gradients of minibatches of the latest 64 examples."""
    return _from_norms(views, lambda view, norms: reliability(norms))


@_ready("gradient_strength", cost=_ESTIMATED)
def _strength(views: Sequence[PartView]) -> Measured:
    """Squared norm of the mean of these gradients over L, the largest magnitude of an eigenvalue of the Hessian."""
    return _from_norms(views, partial(_with_estimate, of=strength))


@_ready("optimization_readiness", cost=_ESTIMATED)
def _readiness(views: Sequence[PartView]) -> Measured:
    """Product of gradient_reliability and gradient_strength (formulas of Wang et al. 2026; the choice of L is this testbed's)."""
    return _from_norms(views, partial(_with_estimate, of=readiness))


@_ready("gradient_strength_fixed_smoothness")
def _fixed_strength(views: Sequence[PartView]) -> Measured:
    """The same as gradient_strength with L = metrics.smoothness."""
    return _from_norms(views, lambda view, norms: strength(norms, view.draws.settings.smoothness))


@_ready("optimization_readiness_fixed_smoothness")
def _fixed_readiness(views: Sequence[PartView]) -> Measured:
    """The same as optimization_readiness with L = metrics.smoothness."""
    return _from_norms(views, lambda view, norms: readiness(norms, view.draws.settings.smoothness))


@metric(
    "k_step_gain",
    of="agent",
    direction="falls",
    range="any number",
    cost="metrics.gain_steps, 10, updates of a copy of network and optimizer in each repeat",
)
def _gain(views: Sequence[PartView]) -> Measured:
    """Decrease of the loss on half of the latest 64 examples by k steps of a copy of the optimizer on the other half."""
    return repeated(views, step_gains)


@metric(
    "moment_gradient_cosine",
    of="parameters",
    summary=cosine_of,
    direction="falls at a change of the problem",
    range="-1 to 1",
    cost="a backward pass of 64 examples",
)
def _moment_cosine(view: PartView, names: list[str]) -> Tensor | Undefined:
    """Cosine between Adam's first moment and the gradient of the loss on the latest 64 examples, without normalisation."""
    gradients = view.once("gradient of the latest examples", _latest_gradient)
    if isinstance(gradients, Undefined):
        return gradients
    own = [name for name in names if name in gradients]
    return moment_sums(
        view.part.optimizer, [view.part.network.get_parameter(name) for name in own], [gradients[name] for name in own]
    )


def _latest_gradient(view: PartView) -> Mapping[str, Tensor] | Undefined:
    """Returns the gradient of the loss on the latest examples by parameter, at the current weights, in evaluation mode."""
    network, examples = view.part.network, loss_examples(view)
    if isinstance(examples, Undefined):
        return examples
    with network.evaluating():
        return dict(zip(trained_parameters(network), gradients_of(network, examples), strict=True))
