import re

import numpy as np
import pytest
import torch
from torch import Tensor

from plasticity.metrics.measures.sides import averaged_rates, one_sided_units, units_below_zero

nan = float("nan")


def test_sides_by_hand() -> None:
    # Above on both inputs; below on both; on both sides; never above, since 0 is not; 0 everywhere; unknown.
    z = torch.tensor([[1.0, -1.0, 1.0, 0.0, 0.0, nan], [2.0, -2.0, -1.0, -1.0, 0.0, 1.0]])
    assert one_sided_units(z).tolist() == [True, True, False, True, True, False]
    assert units_below_zero(z).tolist() == [False, True, False, True, True, False]


@pytest.mark.parametrize("shape", [(1, 3), (4, 7), (5, 6, 2, 3), (3, 4, 1)])
def test_sides_equal_a_loop_over_units(shape: tuple[int, ...]) -> None:
    z = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) + torch.linspace(-3, 3, shape[1]).view(
        1, -1, *[1] * (len(shape) - 2)
    )
    units = [np.take(z.numpy(), unit, axis=1).ravel() for unit in range(shape[1])]
    assert one_sided_units(z).tolist() == [bool(unit.min() > 0 or unit.max() <= 0) for unit in units]
    assert units_below_zero(z).tolist() == [not any(value > 0 for value in unit) for unit in units]


@pytest.mark.parametrize("of", [one_sided_units, units_below_zero])
def test_units_without_an_axis_are_refused(of: object) -> None:
    with pytest.raises(ValueError, match=re.escape("z has shape (3,); it must be (B, U) or (B, U, *spatial)")):
        of(torch.zeros(3))  # type: ignore[operator]


def test_the_average_by_hand() -> None:
    # From 0.5 with decay 0.9: rate 1 gives 0.55, then 0.595; rate 0 gives 0.45, then 0.405.
    start, rates = torch.full((2,), 0.5), torch.tensor([1.0, 0.0])
    assert averaged_rates(start, rates, 1, 0.9).tolist() == pytest.approx([0.55, 0.45])
    assert averaged_rates(start, rates, 2, 0.9).tolist() == pytest.approx([0.595, 0.405])
    assert averaged_rates(start, rates, 0, 0.9).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("units", [1, 5, 33])
@pytest.mark.parametrize("updates", [1, 7, 400])
def test_the_average_equals_equation_2_batch_by_batch(units: int, updates: int) -> None:
    generator = torch.Generator().manual_seed(units + updates)
    rates = torch.rand(3, units, generator=generator)
    average = np.full(units, 0.5)
    found: Tensor = torch.full((units,), 0.5)
    for held in rates:
        for _ in range(updates):
            average = 0.99 * average + 0.01 * held.double().numpy()
        found = averaged_rates(found, held, updates)
    assert found.tolist() == pytest.approx(average.tolist(), rel=1e-10)


@pytest.mark.parametrize(("updates", "decay", "units"), [(-1, 0.9, 2), (1, 1.1, 2), (1, -0.1, 2), (1, 0.9, 3)])
def test_what_is_no_average_is_refused(updates: int, decay: float, units: int) -> None:
    with pytest.raises(ValueError, match=f"updates={updates} must be at least 0, decay={decay} from 0 to 1"):
        averaged_rates(torch.zeros(2), torch.zeros(units), updates, decay)
