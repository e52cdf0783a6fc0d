"""The spread of initial distributions, by hand and of draws."""

import pytest
import torch

from plasticity.interventions.surgery.fresh_draws import deviation
from plasticity.networks.layers.initialisers import Initialiser


@pytest.mark.parametrize(
    ("kind", "scale", "expected"),
    [("uniform", 3.0, 3**0.5), ("absolute_uniform", 6.0, 3**0.5), ("normal", 0.5, 0.5), ("constant", 2.0, 0.0)],
)
def test_the_deviation_of_a_distribution(kind: str, scale: float, expected: float) -> None:
    start = Initialiser(kind, scale)
    assert deviation(start, torch.empty(3, 4)) == pytest.approx(expected)
    drawn = start.sample(torch.Size([300, 400]), torch.Generator().manual_seed(0))
    assert drawn.std().item() == pytest.approx(expected, rel=1e-2, abs=1e-6)
