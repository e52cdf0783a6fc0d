"""Whether an update moves a unit's pre-activation the same way for all inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from plasticity.metrics.measures.shapes import sample_axes
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView
from plasticity.networks.heads.ensemble import Ensemble
from plasticity.networks.network import Network
from plasticity.networks.taps import Taps

INPUTS = 256
EXAMPLES = 64


def sign_agreement(moves: Tensor) -> Tensor:
    """Returns the share of inputs (and positions) on which each unit moves in its majority direction.

    Args:
        moves: Changes of pre-activations, (B, U) or (B, U, *spatial).

    Returns:
        (U,) float32, in [0, 1]: 1 for a unit that all inputs push up, or all down; 0 for one that does not move at all.

    Raises:
        ValueError: If moves has fewer than two axes or no values.
    """
    axes = sample_axes("moves", moves)
    return torch.maximum((moves > 0).float().mean(axes), (moves < 0).float().mean(axes))


def gradient_moves(view: PartView) -> dict[str, Tensor] | Undefined:
    """Returns the first-order change of every pre-activation, (B, U, ...) by layer, under a step against the gradient.

    The gradient is that of the mean loss of the latest 64 examples, by all parameters, in evaluation mode; the inputs are the
    first 256 of the sample. In the first layer that is minus the product of an input with the gradient of the unit's weights, the
    quantity of figure 2 of "Towards perpetually trainable neural networks"; in later ones the contribution of the layers before
    them is included. The changes are those of a step of size 1 if they were linear.
    """
    network, objective = view.part.network, view.part.examples.objective
    batch = view.part.examples.latest(EXAMPLES)
    if objective is None:
        return Undefined("the part's loss is not a function of its outputs alone")
    if batch is None or view.inputs is None:
        return Undefined("nothing has been learned yet")
    with network.evaluating(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        loss = objective(network(batch.inputs).float(), batch)[0]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            return Undefined("the gradient is not finite")
        return _along(_live_pre(network, view.inputs[:INPUTS]), parameters, [-gradient for gradient in gradients])


def _along(values: dict[str, Tensor], parameters: Sequence[Tensor], direction: Sequence[Tensor]) -> dict[str, Tensor]:
    """Returns the derivative of some values along a direction of the parameters, by differentiating their pullback."""
    given = [torch.zeros_like(value, requires_grad=True) for value in values.values()]
    pulled = torch.autograd.grad(
        list(values.values()), parameters, given, create_graph=True, allow_unused=True, materialize_grads=True
    )
    total = torch.stack([(back * way).sum() for back, way in zip(pulled, direction, strict=True)]).sum()
    moves = torch.autograd.grad(total, given, allow_unused=True, materialize_grads=True)
    return {name: move.detach() for name, move in zip(values, moves, strict=True)}


class _GraphTaps(Taps):
    """Keeps pre-activations with their graph."""

    def store(self, name: str, pre: Tensor, post: Tensor) -> None:
        """Keeps one layer's."""
        self.pre[name] = pre


def _live_pre(network: Network, inputs: Tensor) -> dict[str, Tensor]:
    members = (
        {f"{index}.": each for index, each in enumerate(network.networks)} if isinstance(network, Ensemble) else {"": network}
    )
    found: dict[str, Tensor] = {}
    for prefix, member in members.items():
        taps = _GraphTaps()
        member(inputs, taps)
        found |= {f"{prefix}{name}": pre for name, pre in taps.pre.items() if pre.requires_grad}
    return found
