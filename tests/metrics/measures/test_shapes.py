"""Functions of singular values, scores, rates or Gram matrices refuse what they would be made of."""

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor

from plasticity.metrics.measures import churn, drift, feature_ranks, gradients, rank, spectra
from plasticity.metrics.measures.activity import dormant_fraction, rate_bins
from plasticity.metrics.undefined import Undefined

# Singular values 5 and 3: the squares of entries of the rows are 25 and 9.
FEATURES = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 3.0]])
RANKS: Mapping[str, Callable[[Tensor], float]] = {
    "effective_rank": rank.effective_rank,
    "srank": rank.srank,
    "stable_rank": rank.stable_rank,
    "feature_rank": partial(rank.feature_rank, inputs=2),
    "approximate_rank": rank.approximate_rank,
    "numerical_rank": partial(rank.numerical_rank, n=2, d=3),
}
BY_HAND = {
    "effective_rank": (8 / 5) ** (5 / 8) * (8 / 3) ** (3 / 8),
    "srank": 2.0,
    "stable_rank": 34 / 25,
    "feature_rank": 2.0,
    "approximate_rank": 2.0,
    "numerical_rank": 2.0,
}


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("shape", [(64, 16), (1, 16), (16, 1), (), (2, 3, 4)])
def test_ranks_of_singular_values_refuse_features(name: str, shape: tuple[int, ...]) -> None:
    message = rf"sigma has shape \({', '.join(map(str, shape))}\); it must be \(k,\), singular values; of features \(n, d\) take"
    with pytest.raises(ValueError, match=message):
        RANKS[name](torch.randn(shape))


@pytest.mark.parametrize("name", RANKS)
def test_ranks_of_features_by_hand(name: str) -> None:
    function = getattr(feature_ranks, name)
    assert function(FEATURES) == pytest.approx(BY_HAND[name])
    assert function(FEATURES.T) == pytest.approx(BY_HAND[name])
    assert isinstance(function(torch.zeros(3, 2)), Undefined)
    with pytest.raises(ValueError, match=r"features has shape \(3,\); it must be \(n, d\)"):
        function(torch.randn(3))


def test_every_rank_is_offered_for_features_too() -> None:
    def own(module: ModuleType) -> set[str]:
        return {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}

    assert {name for name in own(rank) if name.endswith("rank")} == set(RANKS) == own(feature_ranks)


SQUARE, PAIR = torch.eye(3), (torch.zeros(4, 2), torch.zeros(4, 3))
REFUSED: Mapping[str, tuple[Callable[[], object], str]] = {
    "condition number of a weight": (lambda: spectra.condition_number(SQUARE), r"sigma has shape \(3, 3\); it must be \(k,\)"),
    "condition number of nothing": (lambda: spectra.condition_number(torch.zeros(0)), r"sigma has shape \(0,\)"),
    "isometry of a weight": (lambda: spectra.deviation_from_isometry(SQUARE), r"sigma has shape \(3, 3\); it must be \(k,\)"),
    "spectrum of a bias": (lambda: spectra.weight_singular_values(torch.zeros(3)), r"weight has shape \(3,\); it must be \(out"),
    "dormancy of activations": (lambda: dormant_fraction(SQUARE, 0.1), r"scores has shape \(3, 3\); it must be \(U,\)"),
    "bins of activations": (lambda: rate_bins(SQUARE), r"rates has shape \(3, 3\); it must be \(U,\)"),
    "cosines of gradients": (lambda: gradients.cosines(PAIR[0]), r"gram has shape \(4, 2\); it must be \(n, n\)"),
    "eigenvalues of gradients": (lambda: gradients.eigenvalues(PAIR[0]), r"gram has shape \(4, 2\); it must be \(n, n\)"),
    "mean cosine of gradients": (lambda: gradients.mean_cosine(PAIR[0]), r"matrix has shape \(4, 2\); it must be \(k, k\)"),
    "clusters of gradients": (lambda: gradients.clustered(PAIR[0]), r"matrix has shape \(4, 2\); it must be \(k, k\)"),
    "alignment of images": (lambda: drift.linear_cka(torch.zeros(4, 2, 2), PAIR[0]), r"a has shape \(4, 2, 2\); it must be \(n"),
    "alignment of other inputs": (lambda: drift.linear_cka(PAIR[0], PAIR[0][:3]), r"a and b have shapes \(4, 2\) and \(3, 2\)"),
    "change of another layer": (lambda: drift.relative_change(*PAIR), r"now and before have shapes \(4, 2\) and \(4, 3\)"),
    "churn that would broadcast": (
        lambda: churn.mean_change(torch.zeros(4, 1), PAIR[0]),
        r"before and after have shapes \(4, 1\) and \(4, 2\); they must be equal",
    ),
    "rank of no inputs": (lambda: rank.feature_rank(torch.ones(2), 0), "inputs is 0; it must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_else_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()
