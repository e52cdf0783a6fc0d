import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agents.losses import categorical_cross_entropy, regression_error, smooth, td_targets, two_hot


def naive_two_hot(value: float, atoms: list[float]) -> list[float]:
    """Finds the two neighbours by search, in float64."""
    value = min(max(value, atoms[0]), atoms[-1])
    encoded = [0.0] * len(atoms)
    for index, atom in enumerate(atoms):
        if value == atom:
            encoded[index] = 1.0
            return encoded
    upper = next(index for index, atom in enumerate(atoms) if atom > value)
    width = atoms[upper] - atoms[upper - 1]
    encoded[upper] = (value - atoms[upper - 1]) / width
    encoded[upper - 1] = (atoms[upper] - value) / width
    return encoded


# Targets


def test_td_targets_by_hand() -> None:
    # 1 + 0.5*4 = 3; terminated: 2; -1 + 0.5*2 = 0.
    targets = td_targets(
        torch.tensor([1.0, 2.0, -1.0]), torch.tensor([False, True, False]), torch.tensor([4.0, 8.0, 2.0]), discount=0.5
    )
    assert targets.tolist() == [3.0, 2.0, 0.0]


def test_td_targets_of_terminated_rows_ignore_a_next_value_that_is_not_finite() -> None:
    targets = td_targets(torch.tensor([1.0, 1.0]), torch.tensor([True, True]), torch.tensor([math.nan, math.inf]), 0.9)
    assert targets.tolist() == [1.0, 1.0]


# Two-hot


def test_two_hot_by_hand() -> None:
    # Atoms 0, 2, 4, 6. 2.5 lies a quarter of the way from 2 to 4. 5 lies in the middle of 4 and 6.
    encoded = two_hot(torch.tensor([2.5, 5.0]), torch.tensor([0.0, 2.0, 4.0, 6.0]))
    assert encoded.tolist() == [[0.0, 0.75, 0.25, 0.0], [0.0, 0.0, 0.5, 0.5]]


def test_two_hot_of_every_atom_is_one_hot() -> None:
    atoms = torch.linspace(-10, 10, 21)
    assert torch.equal(two_hot(atoms, atoms), torch.eye(21))


@pytest.mark.parametrize(("value", "row"), [(-1e30, 0), (-10.001, 0), (10.0, 20), (10.001, 20), (1e30, 20)])
def test_two_hot_clips_at_both_ends(value: float, row: int) -> None:
    assert torch.equal(two_hot(torch.tensor([value]), torch.linspace(-10, 10, 21))[0], torch.eye(21)[row])


@pytest.mark.parametrize(
    ("low", "high", "bins"),
    [(0.0, 50.0, 101), (-1.3, 2.9, 37), (0.0, 1.0, 7), (0.0, 10.0, 51), (-3.7, 1000.3, 601), (100.0, 101.3, 51), (-1.0, 1.0, 2)],
)
def test_two_hot_agrees_with_a_search(low: float, high: float, bins: int) -> None:
    atoms = torch.linspace(low, high, bins)
    spacing = (high - low) / (bins - 1)
    values = torch.rand(500, generator=torch.Generator().manual_seed(0)) * (high - low) * 1.2 + low - 0.1 * (high - low)
    values = torch.cat([values, atoms[[0, -1]], torch.tensor([low, high])])
    encoded = two_hot(values, atoms)
    exact_atoms = [low + index * spacing for index in range(bins)]
    # Positions are known to about eps * |largest number| / spacing.
    error = 8 * torch.finfo(torch.float32).eps * max(abs(low), abs(high), bins * spacing) / spacing
    # A value within that error of an atom may be given to the atom's other interval; its encoding is the same to that error.
    expected = torch.tensor([naive_two_hot(float(value), exact_atoms) for value in values], dtype=torch.float64)
    assert (encoded.double() - expected).abs().max() <= error
    torch.testing.assert_close(encoded.double().sum(1), torch.ones(len(values), dtype=torch.float64), rtol=0, atol=1e-6)
    clipped = values.clamp(atoms[0], atoms[-1]).double()
    assert ((encoded.double() @ atoms.double()) - clipped).abs().max() <= error * spacing
    assert (encoded >= 0).all()
    assert ((encoded > 0).sum(1) <= 2).all()


def test_two_hot_of_the_last_atom_is_exact_for_uneven_spacings() -> None:
    for low, high, bins in [(-1.3, 2.9, 37), (100.0, 101.3, 51), (0.0, 1 / (1 - 0.98), 101), (0.0, 1 / (1 - 0.997), 33)]:
        atoms = torch.linspace(low, high, bins)
        ends = two_hot(atoms[[0, -1]], atoms)
        torch.testing.assert_close(ends, torch.eye(bins)[[0, bins - 1]], rtol=0, atol=1e-5)
        assert (ends >= 0).all()


def test_two_hot_draws_nothing_from_beyond_its_rows() -> None:
    both = two_hot(torch.tensor([0.3, 0.9]), torch.linspace(0, 1, 5))
    alone = two_hot(torch.tensor([0.9]), torch.linspace(0, 1, 5))
    assert torch.equal(both[1:], alone)


# Smoothing, cross entropy, regression


def test_smooth_by_hand() -> None:
    # 0.8 * (0.5, 0.5, 0, 0) + 0.2 / 4 = (0.45, 0.45, 0.05, 0.05).
    smoothed = smooth(torch.tensor([[0.5, 0.5, 0.0, 0.0]]), 0.2)
    assert smoothed[0].tolist() == pytest.approx([0.45, 0.45, 0.05, 0.05])


def test_smooth_by_nothing_changes_nothing() -> None:
    encoded = two_hot(torch.tensor([0.3]), torch.linspace(0, 1, 7))
    assert torch.equal(smooth(encoded, 0.0), encoded)


def test_cross_entropy_by_hand() -> None:
    # softmax of (0, ln 3) is (1/4, 3/4): -(0.5 ln 1/4 + 0.5 ln 3/4).
    loss = categorical_cross_entropy(torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[0.5, 0.5]]))
    assert loss.tolist() == pytest.approx([-(0.5 * math.log(0.25) + 0.5 * math.log(0.75))])


def test_cross_entropy_agrees_with_torch_for_soft_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 11, generator=generator) * 5
    targets = torch.randn(20, 11, generator=generator).softmax(1)
    expected = functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(categorical_cross_entropy(logits, targets), expected)


@pytest.mark.parametrize(("huber", "expected"), [(False, [0.25, 4.0, 9.0, 1.0]), (True, [0.125, 1.5, 2.5, 0.5])])
def test_regression_error_by_hand(huber: bool, expected: list[float]) -> None:
    # Differences 0.5, -2, 3, 1. Huber: d^2/2 for |d| <= 1, else |d| - 1/2.
    predictions, targets = torch.tensor([0.5, 0.0, 5.0, 2.0]), torch.tensor([0.0, 2.0, 2.0, 1.0])
    assert regression_error(predictions, targets, huber).tolist() == expected


@pytest.mark.parametrize("huber", [False, True])
def test_gradient_of_the_regression_error_by_hand(huber: bool) -> None:
    # Squared: 2 d. Huber: d inside, sign(d) outside.
    predictions: Tensor = torch.tensor([0.5, -3.0], requires_grad=True)
    regression_error(predictions, torch.zeros(2), huber).sum().backward()
    assert predictions.grad is not None
    assert predictions.grad.tolist() == ([0.5, -1.0] if huber else [1.0, -6.0])
