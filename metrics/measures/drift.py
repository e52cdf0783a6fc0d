"""How much features of the same inputs have changed."""

from torch import Tensor

from plasticity.metrics.measures.shapes import require_matrix, require_same_shape
from plasticity.metrics.undefined import Undefined


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Returns the centred kernel alignment of two sets of features with linear kernels (Kornblith et al. 2019).

    Args:
        a: Features of n inputs, (n, d).
        b: Other features of the same inputs, (n, e).

    Returns:
        A number in [0, 1]: 1 if one is the other turned, shifted and scaled. ``Undefined`` if either is constant over the inputs,
        or not finite.

    Raises:
        ValueError: If they are not matrices with the same number of rows.
    """
    for name, features in (("a", a), ("b", b)):
        require_matrix(name, features, "it must be (n, d), a row for each input")
    if len(a) != len(b):
        raise ValueError(
            f"a and b have shapes {tuple(a.shape)} and {tuple(b.shape)}; they must have the same rows, one for each input"
        )
    grams = []
    for features in (a, b):
        centred = features.detach().double()
        centred = centred - centred.mean(0)
        grams.append(centred @ centred.T)
    norms = [float(gram.norm()) for gram in grams]
    if not all(norm < float("inf") for norm in norms):
        return Undefined("the features are not finite")
    if min(norms) == 0:
        return Undefined("the features are the same for all inputs")
    return min(float((grams[0] / norms[0] * (grams[1] / norms[1])).sum()), 1.0)


def relative_change(now: Tensor, before: Tensor) -> float:
    """Returns ||now - before|| / ||before|| of two tensors of one shape, at least 0; ``Undefined`` if ``before`` is all zeros."""
    require_same_shape("now and before", now, before)
    size = float(before.double().norm())
    if size == 0:
        return Undefined("all features were zero")
    change = float((now.detach().double() - before.double()).norm()) / size
    return change if change == change else Undefined("the features are not finite")
