"""What the units of one layer do on a set of inputs: dormant, dead, linearised, and how often they fire.

Shapes, for every function of activations: ``(B, U)`` or ``(B, U, *spatial)`` with the units (channels) on axis 1; every
statistic of a unit is taken over the batch and all spatial positions. B inputs, U units.

``h`` is what a layer passes on (post-activation); ``z`` is what its non-linearity receives (pre-activation, after
normalisation and after a load-balancing shift).

CReLU passes on relu(z) and relu(-z) as 2U channels. Functions of ``h`` count each half as a unit of its own; functions of ``z``
see the U producing units. A producing unit whose z never changes sign therefore shows as one dead half out of two and, seen
through ``z``, as one linearised unit.

Dead and linearised are statements about the inputs given: few inputs count too many units, so use a thousand or more.
Nothing here synchronises with the host. Activations that are not finite give NaN scores and rates; a mask is False where
they leave the question open, so check the scores before counting a mask.
"""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

from plasticity.metrics.measures.shapes import require_vector, sample_axes
from plasticity.networks.layers.activations import activation_named


def dormancy_scores(h: Tensor) -> Tensor:
    """Returns s_i = E|h_i| / mean_k E|h_k|, each unit's mean activation relative to its layer's (Sokar et al. 2023, eq. 1).

    Differs from the authors' code, which adds 1e-9 to the denominator: here nothing is added, so the scores do not change
    when all activations are scaled, however small they are. A layer that is zero on every input scores 0 in every unit.

    Args:
        h: Post-activations, (B, U) or (B, U, *spatial), any floating dtype. Sums over inputs are taken in float64.

    Returns:
        Scores, (U,), in [0, U] with mean 1 (0 for an all-zero layer); float32, or float64 for float64 input. All NaN if any
        activation is not finite.

    Raises:
        ValueError: If h has fewer than two axes or no values.
    """
    sample_axes("h", h)
    # Over positions in the type of h, which is much faster, and over inputs in float64.
    per_input = h.detach().flatten(2).abs().mean(2) if h.ndim > 2 else h.detach().abs()
    totals = per_input.sum(0, dtype=torch.float64)
    layer_mean = totals.mean()
    scores = (totals / layer_mean).masked_fill(layer_mean == 0, 0.0)
    # One infinite unit would make every other score 0: it would call the healthy units dormant.
    scores = scores.masked_fill(~layer_mean.isfinite(), float("nan"))
    return scores.to(torch.promote_types(h.dtype, torch.float32))


def dormant_units(h: Tensor, threshold: float) -> Tensor:
    """Returns which units are dormant: s_i <= threshold, the threshold included (Sokar et al. 2023, definition 3.1).

    Args:
        h: Post-activations, (B, U) or (B, U, *spatial).
        threshold: At least 0; 0 asks for exactly zero activation on every input. The paper uses 0.025 and 0.1.

    Returns:
        Mask, (U,) bool; False everywhere if any activation is not finite (see ``dormant_fraction``).

    Raises:
        ValueError: If the threshold is negative or NaN, or h has fewer than two axes or no values.
    """
    _check_threshold(threshold)
    return dormancy_scores(h) <= threshold


def dormant_fraction(scores: Tensor, threshold: float) -> Tensor:
    """Returns the share of units with a score at or below the threshold.

    Takes scores rather than activations so that one pass serves several thresholds, and so that a pooled fraction is this
    function of the layers' concatenated scores.

    Args:
        scores: Dormancy scores, (U,), of one layer or of several concatenated.
        threshold: At least 0.

    Returns:
        0-dim tensor in [0, 1], lower is better; NaN if any score is NaN or there are no scores.

    Raises:
        ValueError: If the threshold is negative or NaN, or scores are not a vector, such as the activations themselves.
    """
    _check_threshold(threshold)
    require_vector("scores", scores, "it must be (U,), one score a unit; of activations take dormancy_scores(h)")
    fraction = (scores <= threshold).to(scores.dtype).mean()
    return fraction.masked_fill(scores.isnan().any(), float("nan"))


def dead_units(h: Tensor, activation: str) -> Tensor:
    """Returns which units are dead on these inputs.

    The rule: where ``plasticity.networks.layers.activations`` gives a saturation level (tanh: 0.99), a unit is dead if abs(h)
    exceeds it on every input, at either end, so that hardly any gradient passes; for every other activation, if h is exactly 0
    on every input. leaky_relu, abs, gelu and identity are then dead only in the degenerate case of an exactly zero output.

    Args:
        h: Post-activations, (B, U) or (B, U, *spatial); for crelu the 2U halves.
        activation: A name in ``plasticity.networks.layers.activations``.

    Returns:
        Mask, (U,) bool.

    Raises:
        ValueError: If the activation is unknown, or h has fewer than two axes or no values.
    """
    saturation = activation_named(activation).saturation
    axes = sample_axes("h", h)
    if saturation is None:
        return (h == 0).all(dim=axes)
    return (h.abs() > saturation).all(dim=axes)


def linearised_units(z: Tensor, *, both_sides: bool = False) -> Tensor:
    """Returns which units are linear on these inputs because z stays on one side of the kink, or bend ("zombie" units).

    A relu with z > 0 on every input (firing rate exactly 1) is the identity there: the "zombie" units of "Towards perpetually
    trainable neural networks" (section 3.2), which reports them for gelu, leaky_relu and abs as well (figure 21): what is counted
    is that all pre-activations are on one side. For gelu and swish that is not a statement about the slope, which goes from 0.5
    at z = 0 to 1; ``slope_variances`` measures that. With z <= 0 on every input they saturate, as do elu and pelu: not counted.
    With z <= 0 on every input a relu is dead, not linearised; leaky_relu, abs and crelu still carry z, and are linearised.
    A unit with z exactly 0 on every input has nothing to carry: it is dead under either setting.

    Args:
        z: Pre-activations, (B, U) or (B, U, *spatial).
        both_sides: Also count units with z <= 0 on every input; ``Activation.both_sides`` states for which activations. Check the
            activation's ``sided`` first: for tanh, sigmoid, sines and learned rationals the sign of z has no meaning.

    Returns:
        Mask, (U,) bool.

    Raises:
        ValueError: If z has fewer than two axes or no values.
    """
    axes = sample_axes("z", z)
    above = (z > 0).all(dim=axes)
    if not both_sides:
        return above
    return above | ((z <= 0).all(dim=axes) & (z < 0).any(dim=axes))


def firing_rates(z: Tensor) -> Tensor:
    """Returns the share of inputs (and positions) on which each unit fires: mean of 1[z > 0]; z = 0 is not firing.

    Args:
        z: Pre-activations, (B, U) or (B, U, *spatial). For crelu this is the rate of the first half; the second half fires
            where z < 0.

    Returns:
        Rates, (U,) float32 in [0, 1]; NaN for a unit with a NaN pre-activation.

    Raises:
        ValueError: If z has fewer than two axes or no values.
    """
    axes = sample_axes("z", z)
    z = z.detach()
    rates = _shares(z > 0)
    return rates.masked_fill(z.amax(axes).isnan(), float("nan"))


def firing_entropy(rates: Tensor) -> Tensor:
    """Returns the binary entropy of firing in bits, -p log2 p - (1-p) log2 (1-p).

    Args:
        rates: Firing rates in [0, 1], any shape, floating dtype.

    Returns:
        Entropies of the same shape and dtype, in [0, 1]: exactly 0 at rates 0 and 1, exactly 1 at 0.5; NaN where the rate is.
    """
    p = rates.detach().double()
    nats: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    # Close to one half, rounding may carry the sum past one bit in the last digit.
    return (nats / log(2)).clamp(max=1.0).to(rates.dtype)


def active_fractions(h: Tensor) -> Tensor:
    """Returns the share of inputs (and positions) on which each unit's activation is not exactly 0.

    Its mean is the fraction of active units, FAU, which counts entries, not units (Ma et al. 2023, with h > 0, the same for
    relu).

    Args:
        h: Post-activations, (B, U) or (B, U, *spatial).

    Returns:
        Shares, (U,) float32 in [0, 1].

    Raises:
        ValueError: If h has fewer than two axes or no values.
    """
    sample_axes("h", h)
    return _shares(h != 0)


def firing_correlations(z: Tensor) -> Tensor:
    """Returns each unit's similarity of firing to the others of its layer: mean |correlation| of 1[z > 0] over inputs, positions.

    Entropies of single units add up to an upper bound of the layer's: units that are copies of each other count every time.

    Args:
        z: Pre-activations, (B, U) or (B, U, *spatial).

    Returns:
        (units that are neither always on nor always off,), in [0, 1], float32; empty if there are fewer than two.

    Raises:
        ValueError: If z has fewer than two axes or no values.
    """
    sample_axes("z", z)
    fires = (z.detach() > 0).float().movedim(1, 0).flatten(1)
    centred = fires - fires.double().mean(1, keepdim=True).float()
    lengths: Tensor = centred.norm(dim=1)
    chosen = (fires.amax(1) > 0) & (fires.amin(1) < 1)
    if int(chosen.sum()) < 2:
        return lengths[:0]
    rows = centred[chosen] / lengths[chosen].unsqueeze(1)
    correlations: Tensor = (rows @ rows.T).abs().clamp(max=1)
    return (correlations.sum(1) - correlations.diagonal()) / (len(rows) - 1)


def slope_variances(z: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the variance, over inputs and positions, of the slope of the non-linearity that each unit sees.

    A unit whose slope never changes is linear on these inputs, for any non-linearity. For relu the variance is r (1 - r) of
    the firing rate r; for smooth functions, whose sign of z has no meaning, this is the measure of linearised units.

    Args:
        z: Pre-activations, (B, U) or (B, U, *spatial).
        function: The non-linearity, one output per input.

    Returns:
        (U,), at least 0.

    Raises:
        ValueError: If z has fewer than two axes or no values.
    """
    axes = sample_axes("z", z)
    with torch.enable_grad():
        at = z.detach().float().requires_grad_()
        (slopes,) = torch.autograd.grad(function(at).sum(), at)
    return slopes.var(axes, correction=0)


def rate_bins(rates: Tensor, bins: int = 20) -> Tensor:
    """Returns the share of units with a firing rate of exactly 0, in each of ``bins`` equal bins between, and of exactly 1.

    Args:
        rates: Firing rates in [0, 1], (U,), U >= 1; each a count divided by a number of inputs and positions.
        bins: Bins of the rates strictly between 0 and 1; a rate on a border belongs to the bin above it.

    Returns:
        (bins + 2,) float64, summing to 1.

    Raises:
        ValueError: If rates are not a vector, such as the pre-activations themselves.
    """
    require_vector("rates", rates, "it must be (U,), one rate a unit; of pre-activations take firing_rates(z)")
    exact = rates.detach().double()
    # Rates are float32: 0.35 * 20 would fall short of 7 without the addition, which is far below any bin.
    inside = (exact * bins + 1e-6 * bins).floor().clamp(0, bins - 1).long() + 1
    index = torch.where(exact == 0, 0, torch.where(exact == 1, bins + 1, inside))
    return torch.bincount(index, minlength=bins + 2).double() / len(exact)


def _shares(mask: Tensor) -> Tensor:
    """Returns the share of true entries of each unit, (U,) float32: a quotient of exact counts."""
    # Counted in floats, exact up to 2^24 positions, which is twice as fast as counting in integers.
    counts = mask.flatten(2).float().sum(2) if mask.ndim > 2 else mask
    return (counts.sum(0, dtype=torch.float64) / (mask.numel() // mask.shape[1])).float()


def _check_threshold(threshold: float) -> None:
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}; it must be at least 0")
