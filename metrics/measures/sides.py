"""Units whose pre-activations stay on one side of zero, for any non-linearity."""

import torch
from torch import Tensor

from plasticity.metrics.measures.shapes import sample_axes


def one_sided_units(z: Tensor) -> Tensor:
    """Returns which units have all pre-activations above zero, or none of them.

    "Towards perpetually trainable neural networks" counts these as zombies of any activation (figures 2 and 21): all inputs lie
    either to the right or to the left of the non-linearity. ``linearised_units`` leaves out the left side of those activations
    that saturate there; this function does not.

    Args:
        z: Pre-activations, (B, U) or (B, U, *spatial); z = 0 belongs to the left.

    Returns:
        Mask, (U,) bool; False where a pre-activation is NaN.

    Raises:
        ValueError: If z has fewer than two axes or no values.
    """
    return (z > 0).all(dim=sample_axes("z", z)) | units_below_zero(z)


def units_below_zero(z: Tensor) -> Tensor:
    """Returns which units have no pre-activation above zero: dead ones of relu, saturated ones of gelu (section 3.1 there).

    Args:
        z: Pre-activations, (B, U) or (B, U, *spatial).

    Returns:
        Mask, (U,) bool; False where a pre-activation is NaN.

    Raises:
        ValueError: If z has fewer than two axes or no values.
    """
    return (z <= 0).all(dim=sample_axes("z", z))


def averaged_rates(before: Tensor, rates: Tensor, updates: int, decay: float = 0.99) -> Tensor:
    """Returns the exponentially averaged firing rate after ``updates`` batches of the same rates.

    "Load Balancing Neurons", equation 2: average <- decay * average + (1 - decay) * rate after each batch, from 0.5 on. Where
    rates are measured every k updates they are held in between, which makes the k equations one; measured after each update it
    is equation 2 itself. The paper counts z >= 0 in equation 1, and z > 0 in its code, as here.

    Args:
        before: The average before, (U,), in [0, 1]; 0.5 at the first update.
        rates: Firing rates now, (U,), in [0, 1].
        updates: How many batches, at least 0.
        decay: tau of the paper, in [0, 1].

    Returns:
        (U,) float64, in [0, 1].

    Raises:
        ValueError: If updates is negative, decay outside [0, 1], or the shapes differ.
    """
    if updates < 0 or not 0 <= decay <= 1 or before.shape != rates.shape:
        raise ValueError(
            f"updates={updates} must be at least 0, decay={decay} from 0 to 1, and before and rates, of shapes "
            f"{tuple(before.shape)} and {tuple(rates.shape)}, of one shape"
        )
    kept = decay**updates
    return torch.lerp(rates.double(), before.double(), kept)
