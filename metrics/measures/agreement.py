"""How far repeated measurements of the same networks agree."""

from torch import Tensor

from plasticity.metrics.undefined import Undefined


def intraclass_correlation(values: Tensor) -> float:
    """Returns ICC(1,1) of a one-way random-effects model: the share of the variance that is between networks.

    With n networks, k repeats of each, MSB the mean square between networks and MSW the one within,

        ICC(1,1) = (MSB - MSW) / (MSB + (k - 1) MSW).

    It is the reliability of a single measurement, 1 if repeats are equal, about 0 if networks differ no more than their repeats
    do, and at least -1 / (k - 1). Source: Shrout and Fleiss 1979, "Intraclass Correlations: Uses in Assessing Rater
    Reliability".

    Args:
        values: (n, k), the repeats of each network in a row; n and k at least 2.

    Raises:
        ValueError: If there are fewer, or another number of axes.
    """
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(
            f"values has shape {tuple(values.shape)}; it must be (n, k), n networks and k repeats, at least 2 of both"
        )
    values = values.detach().double()
    if not bool(values.isfinite().all()):
        return Undefined("a repeat has no value")
    networks, repeats = values.shape
    means = values.mean(1)
    between = float(repeats * (means - means.mean()).square().sum()) / (networks - 1)
    within = float((values - means.unsqueeze(1)).square().sum()) / (networks * (repeats - 1))
    total = between + (repeats - 1) * within
    return (between - within) / total if total > 0 else Undefined("all values are the same")
