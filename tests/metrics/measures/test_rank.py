from math import exp, inf, log, nan, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plasticity.metrics.measures import rank
from plasticity.metrics.measures.rank import effective_rank, singular_values, srank, stable_rank
from plasticity.metrics.undefined import Undefined

RANKS = [effective_rank, srank, stable_rank]


def gaussian(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Singular values


def test_singular_values_by_hand() -> None:
    # [[3, 0], [4, 5]]: the Gram matrix [[25, 20], [20, 25]] has eigenvalues 25 +- 20 = 45 and 5.
    sigma = singular_values(torch.tensor([[3.0, 0.0], [4.0, 5.0]]))
    assert sigma.dtype == torch.float64
    assert sigma.tolist() == pytest.approx([sqrt(45), sqrt(5)], rel=1e-12)


def test_singular_values_are_not_centred() -> None:
    # Two equal rows (3, 4): one direction of length 5 sqrt 2. Centring would leave nothing.
    sigma = singular_values(torch.tensor([[3.0, 4.0], [3.0, 4.0]]))
    assert sigma.tolist() == pytest.approx([5 * sqrt(2), 0.0], abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_features_are_decomposed_in_float64(dtype: torch.dtype) -> None:
    sigma = singular_values(torch.tensor([[3.0, 0.0], [4.0, 5.0]], dtype=dtype))
    assert sigma.tolist() == pytest.approx([sqrt(45), sqrt(5)], rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 7), (7, 4), (6, 6)])
def test_singular_values_equal_numpy(shape: tuple[int, int]) -> None:
    x = gaussian(*shape, seed=3)
    sigma = singular_values(x)
    assert sigma.tolist() == pytest.approx(np.linalg.svd(x.numpy(), compute_uv=False).tolist(), rel=1e-12)
    assert len(sigma) == min(shape)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_large_matrices_go_through_the_gram_matrix(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(*shape, seed=4)
    exact = singular_values(x)
    monkeypatch.setattr(rank, "SVD_WORK_LIMIT", shape[0] * shape[1] * 12 - 1)
    sigma = singular_values(x)
    assert not torch.equal(sigma, exact)
    assert sigma.tolist() == pytest.approx(exact.tolist(), rel=1e-12)


def test_gram_matrix_does_not_show_noise_as_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rank 2 out of 40: rounding leaves eigenvalues near 1e-16 of the largest, roots of which would be 1e-8.
    x = gaussian(100, 2, seed=5) @ gaussian(2, 40, seed=6)
    monkeypatch.setattr(rank, "SVD_WORK_LIMIT", 0)
    sigma = singular_values(x)
    assert int((sigma > 0).sum()) == 2
    assert torch.equal(sigma[2:], torch.zeros(38, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_features_that_are_no_matrix_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features has shape .* must be \(n, d\)"):
        singular_values(torch.zeros(shape))


# The three ranks by hand


def test_effective_rank_by_hand() -> None:
    # sigma 3, 1: p = 3/4, 1/4; entropy = 0.75 ln(4/3) + 0.25 ln 4 = 0.2157616 + 0.3465736 = 0.5623351; exp = 1.7547654.
    assert effective_rank(torch.tensor([3.0, 1.0])) == pytest.approx(1.7547654, abs=1e-6)


def test_effective_rank_uses_sigma_and_not_its_square() -> None:
    # With squares p would be 9/10, 1/10 and the rank exp(0.3250830) = 1.3841.
    assert effective_rank(torch.tensor([3.0, 1.0])) != pytest.approx(1.3841, abs=0.1)


@pytest.mark.parametrize(
    ("delta", "expected"),
    # Sum 10; partial sums 6, 9, 9.95, 10 are shares 0.6, 0.9, 0.995, 1.
    [(0.5, 1), (0.4, 1), (0.39, 2), (0.1, 2), (0.09, 3), (0.01, 3), (0.005, 3), (0.004, 4), (0.0, 4)],
)
def test_srank_by_hand(delta: float, expected: int) -> None:
    assert srank(torch.tensor([6.0, 3.0, 0.95, 0.05], dtype=torch.float64), delta) == expected


def test_srank_default_leaves_out_one_percent() -> None:
    # Shares of 200: 197/200 = 0.985, 198/200 = 0.99.
    assert srank(torch.tensor([197.0, 1.0, 1.0, 1.0])) == 2


def test_stable_rank_by_hand() -> None:
    # (16 + 4 + 4) / 16 = 1.5.
    assert stable_rank(torch.tensor([4.0, 2.0, 2.0])) == 1.5


def test_ranks_of_a_matrix_by_hand() -> None:
    # diag(2, 2) over two zero rows: two equal directions.
    sigma = singular_values(torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]]))
    assert effective_rank(sigma) == pytest.approx(2.0, rel=1e-12)
    assert srank(sigma) == 2.0
    assert stable_rank(sigma) == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("limit", [4e9, 0.0])
def test_srank_of_equal_directions_survives_rounding(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # 100 equal values: 99 of them are exactly 99 %. Rotated, so that the SVD has to round; also through the Gram matrix.
    monkeypatch.setattr(rank, "SVD_WORK_LIMIT", limit)
    assert srank(singular_values(torch.eye(100))) == 99
    for seed in range(5):
        sigma = singular_values(torch.linalg.qr(gaussian(100, 100, seed)).Q * 0.3)
        assert srank(sigma) == 99
        assert effective_rank(sigma) == pytest.approx(100.0, rel=1e-12)
        assert stable_rank(sigma) == pytest.approx(100.0, rel=1e-12)


def test_srank_tolerance_does_not_swallow_a_real_shortfall() -> None:
    # The largest holds 0.99 - 1e-7 of the sum: short by more than the tolerance, so a second is needed.
    assert srank(torch.tensor([0.99 - 1e-7, 0.01 + 1e-7], dtype=torch.float64)) == 2
    assert srank(torch.tensor([0.99 - 1e-11, 0.01 + 1e-11], dtype=torch.float64)) == 1


@pytest.mark.parametrize("delta", [-0.1, 1.0, nan])
def test_delta_outside_its_range_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta is"):
        srank(torch.ones(3), delta)


# Edges


@pytest.mark.parametrize("measure", RANKS)
def test_zero_features_have_no_rank(measure: object) -> None:
    value = measure(singular_values(torch.zeros(5, 3)))  # type: ignore[operator]
    assert isinstance(value, Undefined)
    assert value.reason == "all features are zero"


@pytest.mark.parametrize("measure", RANKS)
@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_features_that_are_not_finite_have_no_rank(measure: object, bad: float) -> None:
    features = torch.eye(3)
    features[1, 2] = bad
    value = measure(singular_values(features))  # type: ignore[operator]
    assert isinstance(value, Undefined)
    assert value.reason == "the features are not finite"


@pytest.mark.parametrize("measure", RANKS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_no_features_have_no_rank(measure: object, shape: tuple[int, int]) -> None:
    value = measure(singular_values(torch.zeros(shape)))  # type: ignore[operator]
    assert isinstance(value, Undefined)
    assert value.reason == "there are no features"


@pytest.mark.parametrize("measure", RANKS)
@pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
def test_one_row_or_one_column_has_rank_one(measure: object, shape: tuple[int, int]) -> None:
    assert measure(singular_values(gaussian(*shape, seed=7))) == 1.0  # type: ignore[operator]


@pytest.mark.parametrize("measure", RANKS)
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_ranks_survive_extreme_scales(measure: object, scale: float) -> None:
    sigma = torch.tensor([4.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    assert measure(sigma * scale) == pytest.approx(measure(sigma), rel=1e-12)  # type: ignore[operator]


# Properties and independent implementations

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(shape=shapes, seed=st.integers(0, 2**31), inner=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_ranks_equal_a_plain_loop_and_keep_their_bounds(shape: tuple[int, int], seed: int, inner: int) -> None:
    n, d = shape
    features = gaussian(n, inner, seed) @ gaussian(inner, d, seed + 1)
    values = np.linalg.svd(features.numpy(), compute_uv=False).tolist()
    total = sum(values)
    entropy = -sum(value / total * log(value / total) for value in values if value > 0)
    least, held = 0, 0.0
    while held < 0.99 * total - 1e-9 * total:
        held += values[least]
        least += 1
    sigma = singular_values(features)
    matrix_rank = min(n, d, inner)
    assert effective_rank(sigma) == pytest.approx(exp(entropy), rel=1e-9)
    assert srank(sigma) == least
    assert stable_rank(sigma) == pytest.approx(sum(value**2 for value in values) / values[0] ** 2, rel=1e-9)
    assert 1 <= effective_rank(sigma) <= min(n, d)
    assert effective_rank(sigma) <= matrix_rank + 1e-9
    assert 1 <= srank(sigma) <= matrix_rank
    assert 1 <= stable_rank(sigma) <= matrix_rank + 1e-9


@given(shape=shapes, seed=st.integers(0, 2**31), scale=st.sampled_from([1e-6, 0.3, 1e5]))
@settings(max_examples=40, deadline=None)
def test_ranks_ignore_scale_rotation_and_order(shape: tuple[int, int], seed: int, scale: float) -> None:
    n, d = shape
    features = gaussian(n, d, seed)
    rotated = torch.linalg.qr(gaussian(n, n, seed + 1)).Q @ features @ torch.linalg.qr(gaussian(d, d, seed + 2)).Q
    sigma = singular_values(features)
    for other in (singular_values(features * scale), singular_values(rotated), sigma.flip(0)):
        assert effective_rank(other) == pytest.approx(effective_rank(sigma), rel=1e-9)
        assert srank(other) == srank(sigma)
        assert stable_rank(other) == pytest.approx(stable_rank(sigma), rel=1e-9)


def test_k_equal_values_have_rank_k() -> None:
    for k in range(1, 60):
        sigma = torch.full((k,), 0.3)
        assert k * (1 - 1e-12) <= effective_rank(sigma) <= k
        assert stable_rank(sigma) == k
