import pytest
import torch

from plasticity.metrics.measures.drift import linear_cka, relative_change
from plasticity.metrics.measures.spectra import condition_number, deviation_from_isometry, weight_singular_values
from plasticity.metrics.undefined import Undefined


def test_singular_values_of_a_convolution_are_those_of_one_patch() -> None:
    kernel = torch.zeros(2, 1, 2, 2)
    kernel[0, 0, 0, 0], kernel[1, 0, 1, 1] = 3.0, -2.0
    assert weight_singular_values(kernel).tolist() == pytest.approx([3.0, 2.0])


def test_condition_number_by_hand() -> None:
    assert condition_number(torch.tensor([4.0, 2.0, 0.5])) == 8.0
    assert isinstance(condition_number(torch.tensor([4.0, 0.0])), Undefined)
    assert isinstance(condition_number(torch.tensor([float("nan"), 1.0])), Undefined)


def test_deviation_from_isometry_by_hand() -> None:
    assert deviation_from_isometry(torch.tensor([2.0, 1.0, 0.0])) == 9.0 + 0.0 + 1.0
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = float((weight @ weight.T - torch.eye(3)).square().sum())
    assert deviation_from_isometry(weight_singular_values(weight)) == pytest.approx(expected)
    orthogonal, _ = torch.linalg.qr(weight.T)
    assert deviation_from_isometry(weight_singular_values(orthogonal)) == pytest.approx(0.0, abs=1e-20)


A = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def test_cka_by_hand() -> None:
    # Centred already. With b = its first column: K = A A^T has squares summing to 1 + 1 + 4 + 0 + 2 * (1 + 1) = 10, b b^T to 4,
    # and <K, b b^T> = ||A^T b||^2 = 2^2 + 1^2 = 5.
    b = A[:, :1]
    assert linear_cka(A, b) == pytest.approx(5 / (10**0.5 * 2))
    assert linear_cka(A, b) == linear_cka(b, A)


def test_cka_does_not_see_turns_shifts_and_scales() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    assert linear_cka(features, 3 * features @ rotation + 7) == pytest.approx(1.0)
    assert linear_cka(features, torch.randn(30, 4, generator=generator)) < 0.6


def test_cka_of_constant_features() -> None:
    assert isinstance(linear_cka(A, torch.ones(3, 2)), Undefined)
    assert isinstance(linear_cka(A, A * float("nan")), Undefined)


def test_relative_change_by_hand() -> None:
    before = torch.tensor([[3.0, 4.0]])
    assert relative_change(torch.tensor([[3.0, 9.0]]), before) == 1.0
    assert relative_change(before, before) == 0.0
    assert isinstance(relative_change(before, torch.zeros(1, 2)), Undefined)
    assert isinstance(relative_change(before * float("nan"), before), Undefined)
