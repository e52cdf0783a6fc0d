"""Log-probabilities and entropies of policies, as pure functions of tensors."""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

_LOG_2PI: Final = math.log(2 * math.pi)


def categorical_log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """Returns log p(action), (B,), for logits (B, A) and actions (B,) int64."""
    return functional.log_softmax(logits, dim=1).gather(1, actions.unsqueeze(1)).squeeze(1)


def categorical_entropy(logits: Tensor) -> Tensor:
    """Returns the entropy in nats, (B,), of logits (B, A)."""
    log_p = functional.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(1)


def sample_categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draws one action per row, (B,) int64.

    Each action has a clock that rings after an exponential time of rate p(action), and the first one is chosen; that is how
    ``torch.multinomial`` draws one sample, and the actions are the same. It also checks p, which takes longer than the draw.
    """
    probabilities = logits.float().softmax(1)
    clocks = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / clocks).argmax(1)


def gaussian_log_prob(mean: Tensor, log_deviation: Tensor, actions: Tensor) -> Tensor:
    """Returns the log density, (B,), of a diagonal Gaussian at actions (B, A)."""
    standard = (actions - mean) * (-log_deviation).exp()
    return (-0.5 * (standard.square() + _LOG_2PI) - log_deviation).sum(1)


def gaussian_entropy(log_deviation: Tensor) -> Tensor:
    """Returns the entropy in nats, (B,), of a diagonal Gaussian with log standard deviations (B, A)."""
    return (log_deviation + 0.5 * (1 + _LOG_2PI)).sum(1)


def squash_correction(unsquashed: Tensor) -> Tensor:
    """Returns log |d tanh(u) / du| summed over action dimensions, (B,).

    In the form 2 (log 2 - u - softplus(-2u)), exact for every u; log(1 - tanh(u)^2 + 1e-6) is off by 1.2 at |u| = 8.
    """
    return (2 * (math.log(2) - unsquashed - functional.softplus(-2 * unsquashed))).sum(1)


def squashed_gaussian(mean: Tensor, log_deviation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Samples tanh(mean + deviation * noise), differentiably.

    Args:
        mean: (B, A).
        log_deviation: (B, A).
        noise: (B, A), standard normal.

    Returns:
        Actions in (-1, 1), (B, A), and their log density there, (B,).
    """
    unsquashed = mean + log_deviation.exp() * noise
    log_prob = gaussian_log_prob(mean, log_deviation, unsquashed) - squash_correction(unsquashed)
    return torch.tanh(unsquashed), log_prob
