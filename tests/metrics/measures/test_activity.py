import itertools
from math import inf, isnan, log2, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plasticity.metrics.measures.activity import (
    dead_units,
    dormancy_scores,
    dormant_fraction,
    dormant_units,
    firing_entropy,
    firing_rates,
    linearised_units,
)
from plasticity.networks.layers.activations import ACTIVATIONS, activation_named

# 4 inputs, 3 units: silent, always on, and on for half of the inputs.
H = torch.tensor([[0.0, 1.0, 0.0], [0.0, 3.0, -2.0], [0.0, 1.0, 4.0], [0.0, 3.0, 0.0]])

SHAPES = [(1, 1), (5, 1), (1, 4), (7, 3), (3, 4, 2), (2, 3, 4, 5)]


def sample(shape: tuple[int, ...], seed: int) -> Tensor:
    """Values with exact zeros, and unit 0 one-signed so that the masks are not all False."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x[x.abs() < 0.3] = 0.0
    x[:, 0] = x[:, 0].abs() * (seed % 3 - 1)
    return x


def values_of_unit(x: Tensor, unit: int) -> list[float]:
    """Every value of one unit, read element by element."""
    positions = itertools.product(range(x.shape[0]), *(range(size) for size in x.shape[2:]))
    return [float(x[(index[0], unit, *index[1:])]) for index in positions]


# Dormancy


def test_scores_by_hand() -> None:
    # E|h|: 0; (1+3+1+3)/4 = 2; (0+2+4+0)/4 = 1.5. Layer mean: 3.5/3. Scores: 0, 2/(3.5/3) = 12/7, 1.5/(3.5/3) = 9/7.
    assert dormancy_scores(H).tolist() == pytest.approx([0.0, 12 / 7, 9 / 7])


def test_scores_of_a_convolution_average_over_positions() -> None:
    # (B=2, U=2, 1, 2). Unit 0: |1|+|3|+|0|+|0| = 4 over 4 values = 1. Unit 1: 2+2+4+4 = 12 over 4 = 3. Mean 2: 0.5 and 1.5.
    h = torch.tensor([[[[1.0, -3.0]], [[2.0, 2.0]]], [[[0.0, 0.0]], [[4.0, 4.0]]]])
    assert dormancy_scores(h).tolist() == [0.5, 1.5]


def test_scores_of_bf16_are_summed_more_precisely_than_bf16() -> None:
    # bf16 holds 8 bits: adding ones one by one stops at 256. 1000 ones and 1000 threes: means 1 and 3, layer mean 2.
    h = torch.tensor([[1.0, 3.0]], dtype=torch.bfloat16).repeat(1000, 1)
    scores = dormancy_scores(h)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [0.5, 1.5]


def test_scores_keep_float64() -> None:
    assert dormancy_scores(H.double()).dtype == torch.float64


def test_all_zero_layer_is_all_dormant() -> None:
    h = torch.zeros(4, 3)
    assert dormancy_scores(h).tolist() == [0.0, 0.0, 0.0]
    assert dormant_units(h, 0.0).tolist() == [True, True, True]


def test_single_unit_scores_one() -> None:
    assert dormancy_scores(torch.tensor([[0.2], [0.0]])).tolist() == [1.0]


def test_one_huge_unit_makes_the_others_dormant() -> None:
    # Means 1, 1, 1, 997: layer mean 1000/4 = 250. Scores 0.004, 0.004, 0.004, 3.988.
    h = torch.tensor([[1.0, 1.0, 1.0, 997.0]])
    assert dormancy_scores(h).tolist() == pytest.approx([0.004, 0.004, 0.004, 3.988])
    assert dormant_units(h, 0.01).tolist() == [True, True, True, False]
    assert dormant_units(h, 0.0).tolist() == [False, False, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 100])
def test_threshold_itself_is_dormant(dtype: torch.dtype, batch: int) -> None:
    # Means 0.025, 1 and 1.975: they sum to 3, so the layer mean is 1 and the first score is 0.025 itself.
    h = torch.tensor([[0.025, 1.0, 1.975]], dtype=dtype).repeat(batch, 1)
    assert dormant_units(h, 0.025).tolist() == [True, False, False]
    assert dormant_units(h, 0.0249).tolist() == [False, False, False]


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-20, 2.0**20, 2.0**100])
def test_scores_do_not_depend_on_scale(scale: float) -> None:
    # Powers of two scale float32 exactly, so the scores must be equal, not close: nothing is added to the denominator.
    h = sample((7, 5), seed=2)
    assert torch.equal(dormancy_scores(h * scale), dormancy_scores(h))


@given(seed=st.integers(0, 2**31), shape=st.sampled_from(SHAPES))
@settings(max_examples=40, deadline=None)
def test_scores_equal_a_plain_loop(seed: int, shape: tuple[int, ...]) -> None:
    h = sample(shape, seed)
    means = []
    for unit in range(shape[1]):
        values = values_of_unit(h, unit)
        means.append(sum(abs(value) for value in values) / len(values))
    layer_mean = sum(means) / len(means)
    expected = [mean / layer_mean if layer_mean else 0.0 for mean in means]
    scores = dormancy_scores(h)
    assert scores.tolist() == pytest.approx(expected, rel=1e-6)
    assert float(scores.sum()) == pytest.approx(shape[1] if layer_mean else 0.0, rel=1e-5)
    assert dormant_units(h, 0.5).tolist() == [score <= 0.5 for score in expected]


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_activations_that_are_not_finite_give_no_score(bad: float) -> None:
    h = H.clone()
    h[0, 0] = bad
    assert dormancy_scores(h).isnan().all()
    assert not dormant_units(h, 0.1).any()
    assert isnan(dormant_fraction(dormancy_scores(h), 0.1))


def test_dormant_fraction_by_hand() -> None:
    scores = torch.tensor([0.0, 0.025, 0.5, 3.475])
    assert float(dormant_fraction(scores, 0.0)) == 0.25
    assert float(dormant_fraction(scores, 0.025)) == 0.5
    assert float(dormant_fraction(scores, 0.1)) == 0.5
    assert isnan(dormant_fraction(torch.zeros(0), 0.1))


@pytest.mark.parametrize("threshold", [-0.1, nan])
def test_impossible_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold is"):
        dormant_units(H, threshold)
    with pytest.raises(ValueError, match="threshold is"):
        dormant_fraction(dormancy_scores(H), threshold)


@pytest.mark.parametrize("function", [dormancy_scores, firing_rates, linearised_units, lambda x: dead_units(x, "relu")])
@pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 0), (2, 3, 0)])
def test_nothing_to_average_is_refused(function: object, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="has shape"):
        function(torch.zeros(shape))  # type: ignore[operator]


# Dead units


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"tanh"}))
def test_dead_means_zero_on_every_input(activation: str) -> None:
    assert dead_units(H, activation).tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dead_tanh_is_saturated_on_every_input(dtype: torch.dtype) -> None:
    # Units: saturated high; saturated at either end; saturated but once; silent; just below the level on every input.
    h = torch.tensor([[0.999, -1.0, 1.0, 0.0, 0.98], [0.995, 1.0, 0.5, 0.0, -0.98]], dtype=dtype)
    assert dead_units(h, "tanh").tolist() == [True, True, False, False, False]


def test_dead_tanh_needs_more_than_the_level() -> None:
    assert dead_units(torch.tensor([[0.99, 0.9901]]), "tanh").tolist() == [False, True]


def test_dead_convolution_channel_is_dead_at_every_position() -> None:
    h = torch.zeros(2, 3, 2, 2)
    h[1, 1, 0, 1] = 1e-30
    h[:, 2] = 1.0
    assert dead_units(h, "relu").tolist() == [True, False, False]


def test_crelu_halves_are_units_of_their_own() -> None:
    z = torch.tensor([[1.0, -1.0, 2.0], [3.0, -2.0, -2.0]])
    h = torch.cat([z.relu(), (-z).relu()], dim=1)
    # First halves: unit 1 is never positive. Second halves: unit 0 is never negative.
    assert dead_units(h, "crelu").tolist() == [False, True, False, True, False, False]
    assert linearised_units(z, both_sides=activation_named("crelu").both_sides).tolist() == [True, True, False]


# Linearised units

# Always positive; never positive; both; zero throughout; touching zero from above; touching zero from below.
Z = torch.tensor([[1.0, -1.0, 1.0, 0.0, 0.0, 0.0], [0.5, -2.0, -1.0, 0.0, 2.0, -2.0]])


def test_linearised_relu_by_hand() -> None:
    assert linearised_units(Z).tolist() == [True, False, False, False, False, False]


def test_linearised_on_both_sides_by_hand() -> None:
    assert linearised_units(Z, both_sides=True).tolist() == [True, True, False, False, False, True]


def test_linearised_units_are_linear_and_not_dead() -> None:
    apply = {"relu": torch.relu, "abs": torch.abs, "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.01)}
    for activation, function in apply.items():
        h = function(Z)
        linear = linearised_units(Z, both_sides=activation_named(activation).both_sides)
        assert not (linear & dead_units(h, activation)).any()
        for unit in linear.nonzero().flatten().tolist():
            slopes = {round(float(out / inp), 6) for inp, out in zip(Z[:, unit], h[:, unit], strict=True) if inp != 0}
            assert len(slopes) == 1
            assert slopes != {0.0}


@given(seed=st.integers(0, 2**31), shape=st.sampled_from(SHAPES))
@settings(max_examples=40, deadline=None)
def test_masks_and_rates_equal_a_plain_loop(seed: int, shape: tuple[int, ...]) -> None:
    z = sample(shape, seed)
    values = [values_of_unit(z, unit) for unit in range(shape[1])]
    above = [all(value > 0 for value in unit) for unit in values]
    below = [max(unit) <= 0 and min(unit) < 0 for unit in values]
    assert linearised_units(z).tolist() == above
    assert linearised_units(z, both_sides=True).tolist() == [a or b for a, b in zip(above, below, strict=True)]
    assert dead_units(z, "relu").tolist() == [set(unit) == {0.0} for unit in values]
    assert dead_units(z, "tanh").tolist() == [min(map(abs, unit)) > 0.99 for unit in values]
    assert firing_rates(z).tolist() == pytest.approx([sum(value > 0 for value in unit) / len(unit) for unit in values])


def test_what_applies_to_each_activation() -> None:
    assert {name for name, row in ACTIVATIONS.items() if row.kinked} == {"relu", "leaky_relu", "abs", "crelu"}
    sided = {"relu", "leaky_relu", "abs", "crelu", "elu", "pelu", "gelu", "swish"}
    assert {name for name, row in ACTIVATIONS.items() if row.sided} == sided
    assert {name for name, row in ACTIVATIONS.items() if row.both_sides} == {"leaky_relu", "abs", "crelu"}
    assert {name for name, row in ACTIVATIONS.items() if not row.threshold} == {"tanh", "sigmoid", "fourier", "identity"}
    assert {name for name, row in ACTIVATIONS.items() if row.saturation is not None} == {"tanh"}


def test_unknown_activation_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match="softsign is unknown; choose from relu, leaky_relu"):
        activation_named("softsign")
    with pytest.raises(ValueError, match="softsign is unknown; choose from relu, leaky_relu"):
        dead_units(H, "softsign")


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        ACTIVATIONS["relu"] = activation_named("tanh")  # type: ignore[index]


# Firing


def test_rates_by_hand() -> None:
    # 1 of 2, 0 of 2, ... : zero itself is not firing.
    assert firing_rates(Z).tolist() == [1.0, 0.0, 0.5, 0.0, 0.5, 0.0]


def test_rates_of_a_convolution_count_positions() -> None:
    # Unit 0 fires at 1 of 4 values, unit 1 at 3 of 4.
    z = torch.tensor([[[1.0, -1.0], [1.0, 1.0]], [[-1.0, 0.0], [-1.0, 2.0]]], dtype=torch.bfloat16)
    assert firing_rates(z).tolist() == [0.25, 0.75]
    assert firing_rates(z).dtype == torch.float32


def test_rate_of_a_large_bf16_batch_is_exact() -> None:
    # 999 of 1000, which a bf16 mean would round to 1.
    z = torch.ones(1000, 1, dtype=torch.bfloat16)
    z[0] = -1
    assert float(firing_rates(z)) == pytest.approx(0.999, abs=1e-7)
    assert not linearised_units(z).any()


def test_rate_of_a_unit_with_nan_is_nan_and_the_others_stand() -> None:
    rates = firing_rates(torch.tensor([[1.0, nan], [-1.0, 1.0]]))
    assert float(rates[0]) == 0.5
    assert isnan(rates[1])


def test_entropy_by_hand() -> None:
    # H(1/4) = 1/4 * 2 + 3/4 * log2(4/3) = 0.5 + 0.75 * 0.4150375 = 0.8112781 bits, and the same for 3/4.
    entropy = firing_entropy(torch.tensor([0.25, 0.75]))
    assert entropy.tolist() == pytest.approx([0.8112781, 0.8112781], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_is_exact_at_its_ends_and_its_peak(dtype: torch.dtype) -> None:
    entropy = firing_entropy(torch.tensor([0.0, 0.5, 1.0], dtype=dtype))
    assert entropy.tolist() == [0.0, 1.0, 0.0]
    assert entropy.dtype == dtype


def test_entropy_never_rounds_past_one_bit() -> None:
    # Rates next to one half where the unclamped float64 sum comes out as 1 + 2.2e-16.
    rates = torch.tensor([0.5000000040491185, 0.4999999989645489, 0.49999999584546795], dtype=torch.float64)
    assert firing_entropy(rates).tolist() == [1.0, 1.0, 1.0]


@given(rate=st.floats(0.0, 1.0) | st.floats(0.4999999, 0.5000001))
@settings(deadline=None)
def test_entropy_is_symmetric_bounded_and_equal_to_the_formula(rate: float) -> None:
    entropy, mirrored = firing_entropy(torch.tensor([rate, 1 - rate], dtype=torch.float64)).tolist()
    expected = -sum(p * log2(p) for p in (rate, 1 - rate) if p > 0)
    assert 0 <= entropy <= 1
    assert entropy == pytest.approx(mirrored, abs=1e-12)
    assert entropy == pytest.approx(expected, abs=1e-12)


def test_activations_that_require_gradients_are_read_without_a_graph() -> None:
    x = H.clone().requires_grad_()
    assert not dormancy_scores(x).requires_grad
    assert not firing_rates(x).requires_grad
