"""The law of the time between a unit's firings: estimates of the silence that only a share eta of its silences outlasts."""

import math
from typing import Final

import torch
from torch import Tensor

_EXACT: Final = 2048  # silences below this have a bin of their own
_BINS_PER_DOUBLING: Final = 32
_ROUNDING: Final = 1e-4


def silence_bins(longest: float) -> Tensor:
    """Returns the longest silence of each bin of a histogram: 0, 1 ... 2047, then 32 bins for every doubling, then the rest.

    Silences up to 2,047 are exact, longer ones to a thirty-second: 2,177 bins reach to 20,000.

    Args:
        longest: Silences up to this one have bins of these widths.

    Returns:
        (bins,), float32, the last one infinite.
    """
    ends = [float(silence) for silence in range(min(_EXACT, math.ceil(longest) + 1))]
    start = _EXACT
    while ends[-1] < longest:
        ends += [start * (1 + part / _BINS_PER_DOUBLING) - 1 for part in range(1, _BINS_PER_DOUBLING + 1)]
        start *= 2
    return torch.tensor([*ends, torch.inf])


def silence_before(age: Tensor, share: Tensor, time: float) -> Tensor:
    """Returns the silence before each of the firings of one batch, as if they were evenly spaced since the latest one.

    Args:
        age: Time that the unit was silent before the batch, (U,).
        share: Share of the examples and positions of the batch on which it fires, in (0, 1].
        time: Length of the batch, so that it has ``share * time`` firings.

    Returns:
        (U,) whole numbers, rounded up.
    """
    # The share is a rounded number, and a silence of 3.0000002 is one of 3.
    return ((age + time) / (share * time) - 1 - _ROUNDING).ceil()


def percentile_of(histogram: Tensor, ends: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Returns the shortest silence that at most a share eta of the recorded ones outlasts; silences of 0 do not count.

    For whole numbers A that is the least s with P(A > s) <= eta, so that s + 1 is the first a with P(A >= a) <= eta. Within a bin
    of several silences these are assumed to be evenly spread.

    Args:
        histogram: Weights of silences, (U, bins).
        ends: What ``silence_bins`` returned.
        eta: In (0, 1).

    Returns:
        (U,) silences; and boolean (U,), whether there were any.
    """
    summed = histogram[:, 1:].cumsum(1)
    total = summed[:, -1:]
    wanted = total * ((1 - eta) * (1 - 1e-6))
    index = (summed < wanted).sum(1, keepdim=True).clamp(max=summed.shape[1] - 1)
    mass = histogram[:, 1:].gather(1, index)
    within = (wanted - summed.gather(1, index) + mass) / mass
    below, end = ends[index], ends[1:][index]
    return (below + (end - below) * within).ceil().squeeze(1), total.squeeze(1) > 0


def exponential_percentile(count: Tensor, time: Tensor, eta: float) -> Tensor:
    """Returns the a for which exp(-rate a) = eta, at ``count`` firings in ``time``; infinite without a firing."""
    return time * -math.log(eta) / count


def geometric_percentile(probability: Tensor, eta: float) -> Tensor:
    """Returns the a for which (1 - probability)^a = eta; infinite at probability 0, 0 at 1."""
    return math.log(eta) / torch.log1p(-probability)


def geometric_time(uniform: float, probability: float) -> int:
    """Returns the first of trials 1, 2, ... that succeeds, each with ``probability``: the inverse of its distribution function.

    Args:
        uniform: In [0, 1): the least t with 1 - (1 - probability)^t > uniform.
        probability: In (0, 1].
    """
    return 1 if probability == 1 else 1 + math.floor(math.log1p(-uniform) / math.log1p(-probability))


def next_threshold(threshold: Tensor, estimate: Tensor, expand: float) -> Tensor:
    """Contracts thresholds to estimates below them, and multiplies the others by ``expand``."""
    return torch.where(estimate < threshold, estimate, threshold * expand)
