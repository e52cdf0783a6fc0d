"""Losses and their targets, as pure functions of tensors."""

import torch
from torch import Tensor
from torch.nn import functional


def td_targets(rewards: Tensor, terminated: Tensor, next_values: Tensor, discount: float | Tensor) -> Tensor:
    """Returns temporal-difference targets r + discount * (1 - terminated) * v(s'), (B,).

    Over several steps, rewards are discounted sums and the discount, (B,), is gamma to the number of steps.

    A truncated transition bootstraps from its true next observation; only termination stops the sum.
    """
    return rewards + discount * next_values.masked_fill(terminated, 0.0)


def two_hot(values: Tensor, atoms: Tensor) -> Tensor:
    """Encodes scalars as a categorical over the two nearest atoms, with the right mean.

    Args:
        values: (B,); values outside the atoms are clipped to the nearest end.
        atoms: (Z,), evenly spaced and increasing, Z >= 2.

    Returns:
        (B, Z), rows sum to 1, with expectation equal to the clipped value.
    """
    intervals = atoms.shape[0] - 1
    # The spacing of two neighbours would be a difference of rounded numbers, and its error grows towards the last atom.
    spacing = (atoms[-1] - atoms[0]) / intervals
    position = ((values.clamp(atoms[0], atoms[-1]) - atoms[0]) / spacing).clamp(max=intervals)
    lower = position.floor().clamp(max=intervals - 1).long()
    weight = (position - lower).unsqueeze(1)
    encoded = torch.zeros(values.shape[0], atoms.shape[0], device=values.device, dtype=atoms.dtype)
    encoded.scatter_(1, lower.unsqueeze(1), 1 - weight)
    return encoded.scatter_(1, lower.unsqueeze(1) + 1, weight)


def hl_gauss(values: Tensor, atoms: Tensor, deviation: float = 0.75) -> Tensor:
    """Encodes scalars as the histogram of a Gaussian around them (HL-Gauss, Farebrother et al. 2024, section 3.1).

    Args:
        values: (B,); values outside the atoms are clipped to the nearest end.
        atoms: (Z,), evenly spaced and increasing: the centres of the bins.
        deviation: Standard deviation in widths of a bin.

    Returns:
        (B, Z), rows sum to 1; the mass outside the outermost edges is distributed over the bins in proportion.
    """
    width = (atoms[-1] - atoms[0]) / (atoms.shape[0] - 1)
    edges = torch.cat([atoms - width / 2, atoms[-1:] + width / 2])
    clipped = values.clamp(atoms[0], atoms[-1]).unsqueeze(1)
    cumulative: Tensor = torch.special.ndtr((edges - clipped) / (deviation * width))
    return cumulative.diff(dim=1) / (cumulative[:, -1:] - cumulative[:, :1])


def project_categorical(probabilities: Tensor, values: Tensor, atoms: Tensor) -> Tensor:
    """Projects a categorical over shifted values onto the atoms, keeping its mass, and its mean inside the support.

    Each value's mass goes to the two nearest atoms in inverse proportion to its distance (Bellemare et al. 2017, equation 7).

    Args:
        probabilities: (B, Z), rows sum to 1.
        values: (B, Z), where that mass lies: r + discount * z; clipped to the ends of the support.
        atoms: (Z,), evenly spaced and increasing.

    Returns:
        (B, Z), rows sum to 1.
    """
    width = (atoms[-1] - atoms[0]) / (atoms.shape[0] - 1)
    position = ((values.clamp(atoms[0], atoms[-1]) - atoms[0]) / width).clamp(0, atoms.shape[0] - 1)
    lower = position.floor().clamp(max=atoms.shape[0] - 2)
    upper_mass = probabilities * (position - lower)
    index = lower.long()
    projected = torch.zeros_like(probabilities)
    projected.scatter_add_(1, index, probabilities - upper_mass)
    return projected.scatter_add_(1, index + 1, upper_mass)


def smooth(probabilities: Tensor, smoothing: float) -> Tensor:
    """Mixes a categorical (..., Z) with the uniform one: (1 - smoothing) * p + smoothing / Z (Szegedy et al. 2016)."""
    return (1 - smoothing) * probabilities + smoothing / probabilities.shape[-1]


def categorical_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns -sum over z of targets * log softmax(logits) for each row, (B,)."""
    return -(targets * functional.log_softmax(logits, dim=-1)).sum(-1)


def regression_error(predictions: Tensor, targets: Tensor, huber: bool) -> Tensor:
    """Returns (p - t)^2, or Huber's loss with threshold 1: quadratic inside, linear outside, (B,)."""
    if huber:
        return functional.huber_loss(predictions, targets, reduction="none")
    return functional.mse_loss(predictions, targets, reduction="none")


def masked_cross_entropy(outputs: Tensor, targets: Tensor, active: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Returns the mean cross-entropy of a softmax over some of the classes; the other outputs receive no gradient.

    Args:
        outputs: (B, K) logits.
        targets: (B,) int64, each an active class.
        active: (B, K) bool.
        label_smoothing: Weight of the uniform distribution over the active classes in the target.
    """
    log_probs = functional.log_softmax(outputs.masked_fill(~active, -torch.inf), dim=1)
    loss = -log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
    if label_smoothing:
        uniform = -log_probs.masked_fill(~active, 0.0).sum(1) / active.sum(1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return loss.mean()
