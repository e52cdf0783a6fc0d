from math import isnan, nan, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plasticity.metrics.measures.norms import distance, mean_magnitude, norm, root_mean_square
from plasticity.metrics.undefined import Undefined

# Squares 1 + 4 + 4 = 9 and 16: together 25. Magnitudes 1 + 2 + 2 + 4 = 9 over 4 entries.
WEIGHTS = {"a": torch.tensor([[1.0, -2.0, 2.0]]), "b": torch.tensor(-4.0)}


def random_tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"weight": (3, 4), "bias": (3,), "kernel": (2, 3, 2, 2), "scale": ()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def entries(tensors: dict[str, Tensor]) -> list[float]:
    return [float(value) for tensor in tensors.values() for value in tensor.flatten()]


def test_by_hand() -> None:
    assert norm(WEIGHTS) == 5.0
    assert mean_magnitude(WEIGHTS) == 2.25
    assert root_mean_square(WEIGHTS) == 2.5


def test_distance_by_hand() -> None:
    # Differences: (1-1, -2+2-3, 2-2) = (0, -3, 0) and -4 - 0 = -4. Root of 9 + 16.
    reference = {"b": torch.tensor(0.0), "a": torch.tensor([[1.0, 1.0, 2.0]])}
    assert distance(WEIGHTS, reference) == 5.0


def test_distance_to_itself_is_zero_and_to_zero_is_the_norm() -> None:
    tensors = random_tensors(0)
    assert distance(tensors, tensors) == 0.0
    assert distance(tensors, {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}) == norm(tensors)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_equal_a_plain_loop(seed: int) -> None:
    tensors, reference = random_tensors(seed), random_tensors(seed + 1)
    values = entries(tensors)
    gaps = [a - b for a, b in zip(values, entries(reference), strict=True)]
    assert float(norm(tensors)) == pytest.approx(sqrt(sum(v * v for v in values)), rel=1e-12)
    assert float(distance(tensors, reference)) == pytest.approx(sqrt(sum(g * g for g in gaps)), rel=1e-6)
    assert float(mean_magnitude(tensors)) == pytest.approx(sum(map(abs, values)) / len(values), rel=1e-12)
    assert float(root_mean_square(tensors)) == pytest.approx(sqrt(sum(v * v for v in values) / len(values)), rel=1e-12)
    assert float(distance(tensors, reference)) == float(distance(reference, tensors))


def test_large_float32_tensors_are_summed_in_float64() -> None:
    # Four million entries of 0.1: a float32 sum of the squares is off in the fifth digit.
    tensors = {"w": torch.full((2000, 2000), 0.1)}
    tenth = float(torch.tensor(0.1))
    for value in (norm(tensors), distance(tensors, {"w": torch.zeros(2000, 2000)})):
        assert value.dtype == torch.float64  # type: ignore[union-attr]
        assert float(value) == pytest.approx(2000 * tenth, rel=1e-10)
    assert float(mean_magnitude(tensors)) == pytest.approx(tenth, rel=1e-10)


def test_bf16_difference_is_not_rounded_to_bf16() -> None:
    # 256 - 1.0078125 = 254.9921875, which bf16 (8 bits) would round to 255.
    tensors = {"w": torch.tensor([256.0], dtype=torch.bfloat16)}
    reference = {"w": torch.tensor([1.0078125], dtype=torch.bfloat16)}
    assert distance(tensors, reference) == 254.9921875
    assert norm(tensors) == 256.0


def test_dtypes_may_differ_between_and_within_the_sets() -> None:
    tensors = {"a": torch.tensor([3.0], dtype=torch.bfloat16), "b": torch.tensor([4.0], dtype=torch.float64)}
    reference = {"a": torch.tensor([0.0], dtype=torch.float64), "b": torch.tensor([0.0])}
    assert norm(tensors) == 5.0
    assert distance(tensors, reference) == 5.0


def test_views_and_parameters_are_read_as_they_are() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    # Column 2 holds 2 and 5: root of 29.
    value = norm({"column": weight[:, 2]})
    assert float(value) == pytest.approx(sqrt(29), rel=1e-15)
    for measured in (value, mean_magnitude({"w": weight}), distance({"w": weight}, {"w": weight.detach()})):
        assert not measured.requires_grad  # type: ignore[union-attr]


def test_inputs_are_left_alone() -> None:
    tensors, reference = random_tensors(1), random_tensors(2)
    distance(tensors, reference)
    assert entries(tensors) == entries(random_tensors(1))
    assert entries(reference) == entries(random_tensors(2))


@pytest.mark.parametrize("tensors", [{}, {"empty": torch.zeros(0, 3)}])
def test_no_values_have_no_size(tensors: dict[str, Tensor]) -> None:
    for value in (norm(tensors), mean_magnitude(tensors), root_mean_square(tensors), distance(tensors, tensors)):
        assert isinstance(value, Undefined)
        assert value.reason == "there are no values"


def test_nan_in_the_tensors_shows() -> None:
    tensors = {"a": torch.tensor([1.0, nan]), "b": torch.ones(2)}
    assert isnan(norm(tensors))
    assert isnan(mean_magnitude(tensors))
    assert isnan(distance(tensors, {"a": torch.ones(2), "b": torch.ones(2)}))


def test_distance_refuses_other_names() -> None:
    with pytest.raises(ValueError, match="only one of them has b, c"):
        distance(WEIGHTS, {"a": WEIGHTS["a"], "c": torch.tensor(0.0)})


def test_distance_refuses_other_shapes_even_if_they_broadcast() -> None:
    with pytest.raises(ValueError, match=r"a has shapes \(1, 3\) and \(3,\)"):
        distance(WEIGHTS, {"a": torch.zeros(3), "b": torch.tensor(0.0)})
