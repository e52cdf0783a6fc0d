import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.losses.targets import (
    categorical_cross_entropy,
    hl_gauss,
    project_categorical,
    regression_error,
    smooth,
    td_targets,
    two_hot,
)

SUPPORTS = [(-10.0, 10.0, 51), (-7.3, 11.1, 51), (0.0, 100.0, 101), (-1.0, 1.0, 2), (-3.7, 1000.3, 601), (0.0, 0.3, 4)]


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


def test_td_targets_of_many_values_broadcast_over_rewards_and_ends() -> None:
    # Atoms -1, 0, 1 under r = 2, discount 0.5, then with an end: r for every atom, that is all the mass at r.
    rewards, ends = torch.tensor([[2.0], [2.0]]), torch.tensor([[False], [True]])
    shifted = td_targets(rewards, ends, torch.tensor([-1.0, 0.0, 1.0]), 0.5)
    assert shifted.tolist() == [[1.5, 2.0, 2.5], [2.0, 2.0, 2.0]]


# Projection of a categorical


def naive_projection(probabilities: list[float], values: list[float], low: float, high: float) -> list[float]:
    """Spreads every value's mass with a triangular kernel around it, in float64."""
    count = len(probabilities)
    width = (high - low) / (count - 1)
    projected = [0.0] * count
    for mass, value in zip(probabilities, values, strict=True):
        for index in range(count):
            distance = abs(min(max(value, low), high) - (low + index * width)) / width
            projected[index] += mass * max(0.0, 1.0 - distance)
    return projected


def random_rows(rows: int, columns: int, seed: int = 0) -> Tensor:
    return (2 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))).softmax(1)


def test_projection_by_hand() -> None:
    # Atoms 0, 1, 2, 3. Mass (0.1, 0.2, 0.3, 0.4) moves to 0.5, 1, 1.5, 2: 0.05 | 0.05 + 0.2 + 0.15 | 0.15 + 0.4 | 0.
    atoms, mass = torch.arange(4.0), torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    projected = project_categorical(mass, 0.5 + 0.5 * atoms.unsqueeze(0), atoms)
    assert projected[0].tolist() == pytest.approx([0.05, 0.4, 0.55, 0.0])


@pytest.mark.parametrize(("low", "high", "bins"), SUPPORTS)
def test_projection_keeps_mass_and_the_mean_inside_the_support(low: float, high: float, bins: int) -> None:
    atoms, mass = torch.linspace(low, high, bins), random_rows(40, bins)
    # A contraction towards points of the support keeps every value inside it.
    centres = torch.linspace(low, high, 40).unsqueeze(1)
    values = centres + torch.rand(40, 1, generator=torch.Generator().manual_seed(1)) * (atoms - centres)
    projected = project_categorical(mass, values, atoms)
    assert (projected >= 0).all()
    torch.testing.assert_close(projected.sum(1), torch.ones(40), rtol=0, atol=1e-6)
    before, after = ((rows.double() * where.double()).sum(1) for rows, where in ((mass, values), (projected, atoms)))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6 * max(abs(low), abs(high)))


@pytest.mark.parametrize(("low", "high", "bins"), SUPPORTS)
def test_projection_of_unmoved_values_is_the_identity(low: float, high: float, bins: int) -> None:
    atoms, mass = torch.linspace(low, high, bins), random_rows(20, bins)
    width = (high - low) / (bins - 1)
    error = 4 * torch.finfo(torch.float32).eps * max(abs(low), abs(high)) / width
    torch.testing.assert_close(project_categorical(mass, atoms.expand(20, -1), atoms), mass, rtol=0, atol=error)


def test_projection_of_whole_positions_shifts_by_them() -> None:
    # Mass may vanish where lower and upper neighbour are one atom.
    atoms = torch.arange(-5.0, 6.0)
    projected = project_categorical(torch.eye(11), (atoms + 2).expand(11, -1), atoms)
    expected = torch.eye(11)[torch.arange(2, 13).clamp(max=10)]
    assert torch.equal(projected, expected)


@pytest.mark.parametrize(("low", "high", "bins"), SUPPORTS)
def test_projection_clips_at_both_ends(low: float, high: float, bins: int) -> None:
    atoms, mass = torch.linspace(low, high, bins), random_rows(2, bins)
    beyond = torch.stack([atoms - 2 * (high - low), atoms + 2 * (high - low)])
    torch.testing.assert_close(project_categorical(mass, beyond, atoms), torch.eye(bins)[[0, bins - 1]], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("low", "high", "bins"), SUPPORTS)
def test_projection_agrees_with_loops(low: float, high: float, bins: int) -> None:
    atoms, mass = torch.linspace(low, high, bins), random_rows(4, bins)
    generator = torch.Generator().manual_seed(2)
    rewards = torch.randn(4, 1, generator=generator) * (high - low) / 2
    ends = torch.rand(4, 1, generator=generator) < 0.3
    values = td_targets(rewards, ends, atoms, 0.97)
    expected = [naive_projection(p, v, low, high) for p, v in zip(mass.tolist(), values.tolist(), strict=True)]
    width = (high - low) / (bins - 1)
    error = 8 * torch.finfo(torch.float32).eps * max(abs(low), abs(high)) / width + 1e-6
    torch.testing.assert_close(
        project_categorical(mass, values, atoms).double(), torch.tensor(expected).double(), rtol=0, atol=error
    )


# HL-Gauss


def naive_hl_gauss(value: float, low: float, high: float, bins: int, deviation: float) -> list[float]:
    """The Gaussian's mass in every bin, by erf in float64, distributed again."""
    width = (high - low) / (bins - 1)
    value = min(max(value, low), high)

    def below(edge: float) -> float:
        return 0.5 * (1 + math.erf((edge - value) / (math.sqrt(2) * deviation * width)))

    masses = [below(low + (index + 0.5) * width) - below(low + (index - 0.5) * width) for index in range(bins)]
    return [mass / sum(masses) for mass in masses]


def test_hl_gauss_by_hand() -> None:
    # Bins of width 2 around -2, 0, 2, deviation 0.5 widths = 1. At 0: P(|x| < 1) = 0.6827, and P(1 < x < 3) = 0.1573 twice.
    encoded = hl_gauss(torch.tensor([0.0]), torch.tensor([-2.0, 0.0, 2.0]), deviation=0.5)
    total = 0.682689 + 2 * 0.157305
    assert encoded[0].tolist() == pytest.approx([0.157305 / total, 0.682689 / total, 0.157305 / total], abs=1e-5)


@pytest.mark.parametrize("deviation", [0.75, 0.3, 2.0])
@pytest.mark.parametrize(("low", "high", "bins"), SUPPORTS)
def test_hl_gauss_agrees_with_loops(low: float, high: float, bins: int, deviation: float) -> None:
    atoms = torch.linspace(low, high, bins)
    values = torch.rand(50, generator=torch.Generator().manual_seed(0)) * (high - low) * 1.4 + low - 0.2 * (high - low)
    values = torch.cat([values, atoms[[0, -1]], torch.tensor([-1e6, 1e6])])
    encoded = hl_gauss(values, atoms, deviation)
    expected = [naive_hl_gauss(value, low, high, bins, deviation) for value in values.tolist()]
    error = 8 * torch.finfo(torch.float32).eps * max(abs(low), abs(high)) / ((high - low) / (bins - 1)) / deviation + 1e-6
    torch.testing.assert_close(encoded.double(), torch.tensor(expected).double(), rtol=0, atol=error)
    torch.testing.assert_close(encoded.sum(1), torch.ones(len(values)), rtol=0, atol=1e-5)
    assert (encoded >= 0).all()


def test_hl_gauss_has_the_right_mean_away_from_the_ends() -> None:
    atoms = torch.linspace(-10, 10, 51)
    values = torch.linspace(-6, 6, 37)
    # A bin's centre is its mean for none but symmetric masses; the rounding is small against a bin's width of 0.4.
    torch.testing.assert_close(hl_gauss(values, atoms) @ atoms, values, rtol=0, atol=1e-3)


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
