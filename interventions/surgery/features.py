"""Features: the activations of the hidden layers that a network's head reads."""

from collections.abc import Sequence
from copy import deepcopy

from torch import Tensor

from plasticity.interventions.base import Update
from plasticity.networks.network import Network
from plasticity.networks.taps import Taps


def require_features(method: str, u: Update) -> tuple[str, ...]:
    """Returns ``Network.feature_layers``.

    Raises:
        ValueError: If there are none.
    """
    names = u.network.feature_layers
    if not names:
        raise ValueError(
            f"intervention {method} acts on hidden layers, and this network has none; give network.widths or a torso"
        )
    return names


def as_matrix(activations: Tensor) -> Tensor:
    """Flattens activations (B, ...) to (B, d) in float32; of a convolution they are those before the pooling."""
    return activations.float().flatten(1)


def features_of(network: Network, inputs: Tensor, names: Sequence[str]) -> list[Tensor]:
    """Runs a network in evaluation mode, with a graph unless gradients are off; its own taps stay as they are.

    Args:
        network: The trained network or a copy.
        inputs: (B, *input_shape).
        names: Hidden layers.

    Returns:
        Their post-activations, (B, d) each, float32.
    """
    taps = Taps(keeps_graph=True)
    with network.evaluating():
        network(inputs, taps)
    return [as_matrix(taps.live[name]) for name in names]


def frozen_copy(network: Network) -> Network:
    """Returns a copy in evaluation mode that is not trained."""
    return deepcopy(network).eval().requires_grad_(False)
