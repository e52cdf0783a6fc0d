"""TRAC: the error function, the tuned scale by hand, and the weights against a naive loop."""

from copy import deepcopy
from math import erf, sqrt

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.trac import TRAC, erfi, tuned_scale
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater


def part_of(method: TRAC, optimizer: str = "sgd") -> Updater:
    settings = OptimizerSettings(name=optimizer, learning_rate=0.1)
    return PartBuilder(MLPSpec(widths=[5]), (3,), torch.float32, settings, {"trac": lambda: method})("q", HeadSpec("q", 2))


def inputs(seed: int) -> Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))


def test_erfi_has_the_known_values() -> None:
    # Abramowitz and Stegun: erfi(1) = 1.6504257588, erfi(2) = 18.5648024145, erfi(0.5) = 0.6149520947
    values = erfi(torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0]))
    assert values.tolist() == pytest.approx([0.0, 0.6149520947, 1.6504257588, 18.5648024145, -1.6504257588], rel=1e-9)


def test_erfi_solves_its_differential_equation() -> None:
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    slope = (erfi(x + 1e-5) - erfi(x - 1e-5)) / 2e-5
    torch.testing.assert_close(slope, 2 / torch.pi**0.5 * (x**2).exp(), rtol=1e-7, atol=1e-7)


def test_beyond_6_erfi_stays_finite() -> None:
    assert torch.equal(erfi(torch.tensor([100.0, -100.0])), erfi(torch.tensor([6.0, -6.0])))


def test_the_scale_by_hand() -> None:
    # One rate, v = 2, z = 2: erfi(2 / sqrt(4)) = erfi(1), so S = s * 1.6504257588 / erfi(1/sqrt 2).
    normal = float(erfi(torch.tensor(sqrt(0.5))))
    assert normal == pytest.approx(0.9530, abs=2e-3)
    scale = tuned_scale(torch.tensor([2.0]).double(), torch.tensor([2.0]).double(), 0.5, 0.0)
    assert scale.item() == pytest.approx(0.5 * 1.6504257588 / normal)
    assert tuned_scale(torch.tensor([2.0]).double(), torch.tensor([-2.0]).double(), 0.5, 0.0) == 0.0
    assert erf(1) < 1  # erfi, unlike erf, is unbounded


def test_weights_follow_a_naive_loop() -> None:
    method = TRAC(decay_rates=[0.5, 0.9], first_scale=0.2, epsilon=1e-8)
    part = part_of(method)
    network = deepcopy(part.network)
    parameters = list(network.parameters())
    reference = [p.detach().clone() for p in parameters]
    way = [torch.zeros_like(p) for p in parameters]
    variance, total = [0.0, 0.0], [0.0, 0.0]
    for step in range(6):
        part.step((part.forward(inputs(step)) - 1).square().mean(), None)
        gradients = torch.autograd.grad((network(inputs(step)) - 1).square().mean(), parameters)
        along = sum(float((w * g).sum()) for w, g in zip(way, gradients, strict=True))
        variance = [b * b * v + along**2 for b, v in zip((0.5, 0.9), variance, strict=True)]
        total = [b * z - along for b, z in zip((0.5, 0.9), total, strict=True)]
        argument = torch.tensor([z / (sqrt(2 * v) + 1e-8) for z, v in zip(total, variance, strict=True)])
        scale = max(0.0, float((0.2 / erfi(torch.tensor(sqrt(0.5))) * erfi(argument)).sum()))
        way = [w - 0.1 * g for w, g in zip(way, gradients, strict=True)]
        with torch.no_grad():
            for p, r, w in zip(parameters, reference, way, strict=True):
                p.copy_(r + scale * w)
    for parameter, wanted in zip(part.network.parameters(), parameters, strict=True):
        torch.testing.assert_close(parameter, wanted, rtol=1e-4, atol=1e-6)


def test_the_first_steps_hardly_move() -> None:
    part = part_of(TRAC(), "adam")
    before = [p.detach().clone() for p in part.network.parameters()]
    logs = part.step((part.forward(inputs(0)) - 1).square().mean(), None)
    assert float(torch.as_tensor(logs["trac/scale"])) == 0.0
    assert all(torch.equal(old, new) for old, new in zip(before, part.network.parameters(), strict=True))
    part.step((part.forward(inputs(1)) - 1).square().mean(), None)
    moved = max(float((old - new).detach().abs().max()) for old, new in zip(before, part.network.parameters(), strict=True))
    assert 0 <= moved < 1e-7


def test_rates_are_between_0_and_1() -> None:
    with pytest.raises(ValueError, match=r"trac.decay_rates=\[0.9, 1.0\] must be numbers between 0 and 1"):
        TRAC(decay_rates=[0.9, 1.0])
