from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.reborn import ReBorn, sources
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings


def masks(dormant: list[int], overactive: list[int], units: int) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor([unit in chosen for unit in range(units)]) for chosen in (dormant, overactive))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("dormant", "overactive", "sharers", "copies"),
    [([1, 3, 4], [0], 5, 3), ([1, 3, 4], [0], 2, 2), ([1, 3, 4, 5], [0, 6], 2, 4), ([1], [], 5, 0), ([], [2], 5, 0)],
)
def test_sources(dormant: list[int], overactive: list[int], sharers: int, copies: int) -> None:
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(30):
        source = sources(*masks(dormant, overactive, 7), sharers, generator).tolist()
        copying = [unit for unit in range(7) if source[unit] != unit]
        assert set(copying) <= set(dormant)
        assert len(copying) == copies
        assert all(source[unit] in overactive for unit in copying)
        assert all(source.count(unit) - 1 <= sharers for unit in overactive)
        seen.add(tuple(source))
    assert len(seen) > 1 or len(dormant) * len(overactive) == 0 or (len(overactive) == 1 and copies == len(dormant))


def silence(pair: Any) -> dict[str, list[bool]]:
    """Makes units 1, 2 and 3 of every layer silent, and unit 0 over-active."""
    network = pair.part.network
    with torch.no_grad():
        for layer in pair.layers:
            for slice_ in (*layer.weights, *layer.biases):
                tensor = network.tensor(slice_.tensor)
                tensor[1:4] = 0.0
                tensor[0] *= 50.0
    return {layer.name: [unit in (1, 2, 3) for unit in range(layer.units)] for layer in pair.layers}


@pytest.mark.parametrize("sharers", [1, 5])
def test_the_function_stays(trained: Any, layout: str, sharers: int) -> None:
    settings = {"dormant_threshold": 0.0, "overactive_threshold": 2.0, "sharers": sharers, "every_updates": 1}
    pair = trained(layout, lambda: ReBorn(**settings), "sgd", 0.0)
    silence(pair)
    inputs = pair.inputs(0)
    before = pair.part.forward(inputs).detach()
    logs = pair.update(0)
    over = sum(pair.activity(layer, 0) > 2 * mean_of(pair, layer) for layer in pair.layers)
    assert over >= 1
    dead = sum(pair.activity(layer, unit) == 0 for layer in pair.layers for unit in range(layer.units))
    assert int(logs["method/units_reset"]) == dead
    assert int(logs["method/units_shared"]) >= min(sharers, 3) * over
    torch.testing.assert_close(pair.part.forward(inputs).detach(), before, rtol=1e-4, atol=1e-4)


def mean_of(pair: Any, layer: Any) -> float:
    return sum(pair.activity(layer, unit) for unit in range(layer.units)) / layer.units


def test_partners_by_hand(trained: Any) -> None:
    pair = trained("mlp", lambda: ReBorn(0.0, 2.0, 1, every_updates=1, bias="zero"), "sgd", 0.0)
    silence(pair)
    network = pair.part.network
    first = {name: network.tensor(f"torso.layers.dense_1.linear.{name}").detach().clone() for name in ("weight", "bias")}
    readers = network.tensor("torso.layers.dense_2.linear.weight").detach().clone()
    pair.update(0)
    weight, bias = (network.tensor(f"torso.layers.dense_1.linear.{name}") for name in ("weight", "bias"))
    ratios = weight / first["weight"][0]
    partner = [unit for unit in (1, 2, 3) if torch.allclose(ratios[unit], ratios[unit, 0].expand(3), rtol=1e-5)]
    assert len(partner) == 1  # one partner, as sharers says; the two others are fresh
    scale = float(ratios[partner[0], 0].detach())
    assert 0.3 <= scale <= 0.8
    assert float(bias[partner[0]].detach()) == pytest.approx(scale * float(first["bias"][0]), rel=1e-5)
    assert torch.equal(weight[0], first["weight"][0])
    for unit in {1, 2, 3} - set(partner):
        assert float(bias[unit].detach()) == 0.0
        assert not network.tensor("torso.layers.dense_2.linear.weight")[:, unit].any()
    # Rows of the second layer that were not written: the shares of unit 0 and its partner make one, each at least a little.
    after = network.tensor("torso.layers.dense_2.linear.weight")
    rows = [0, 4, 5]
    kept, given = after[rows, 0] / readers[rows, 0], after[rows, partner[0]] * scale / readers[rows, 0]
    torch.testing.assert_close(kept + given, torch.ones(3), rtol=1e-4, atol=1e-5)
    assert bool((kept > 0).all())
    assert bool((given > 0).all())
    assert len({round(float(share), 4) for share in kept}) == 3  # drawn for each entry


@pytest.mark.parametrize("normalisation", [["batch"], ["batch_non_affine"], ["batch_mean", "batch_std"]])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "abs", "crelu", "identity"])
def test_the_function_stays_behind_batch_normalisation(normalisation: list[str], activation: str) -> None:
    settings = {"dormant_threshold": 0.0, "overactive_threshold": 1.2, "every_updates": 1}
    spec = MLPSpec(widths=[7], activations=[activation], normalisation=normalisation)
    build = PartBuilder(spec, (3,), torch.float32, OptimizerSettings("sgd", 0.0), {"reborn": lambda: ReBorn(**settings)})
    part = build("q", HeadSpec("q", 2))
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    layer = part.network.units.layers[0]
    gain = "torso.layers.dense_1.norms.0.weight"
    with torch.no_grad():
        part.network.tensor(layer.weight.tensor)[1:3] = 0.0
        part.network.tensor(layer.bias.tensor)[1:3] = 0.0
        if normalisation == ["batch"]:
            part.network.tensor(gain)[0] = 40.0
    part.forward(inputs)
    before = part.forward(inputs).detach()
    logs = part.step(part.forward(inputs).sum(), None)
    assert int(logs["reborn/units_reset"]) == 2
    assert int(logs["reborn/units_shared"]) == 2
    torch.testing.assert_close(part.forward(inputs).detach(), before, rtol=1e-4, atol=1e-4)


def test_average_and_period(trained: Any) -> None:
    pair = trained("mlp", lambda: ReBorn(0.9, 1.1, every_updates=3, average_updates=2))
    sums = {(layer.name, unit): 0.0 for layer in pair.layers for unit in range(layer.units)}
    for step in range(1, 10):
        logs = pair.update(step)
        if step % 3 != 1:
            for layer in pair.layers:
                for unit in range(layer.units):
                    sums[layer.name, unit] += pair.activity(layer, unit)
        assert bool("method/units_reset" in logs) == (step % 3 == 0)
        if step % 3 == 0:
            dormant = shared = 0
            for layer in pair.layers:
                own = [sums[layer.name, unit] for unit in range(layer.units)]
                mean = sum(own) / len(own)
                silent, loud = sum(value <= 0.9 * mean for value in own), sum(value > 1.1 * mean for value in own)
                dormant, shared = dormant + silent, shared + min(silent, 5 * loud)
            assert (int(logs["method/units_reset"]), int(logs["method/units_shared"])) == (dormant, shared)
            sums = dict.fromkeys(sums, 0.0)


def test_moments_of_dormant_units_are_cleared(trained: Any) -> None:
    pair = trained("mlp", lambda: ReBorn(0.9, 1.1, every_updates=4))
    for step in range(1, 5):
        pair.update(step)
    layer = pair.layers[-1]
    own = [pair.activity(layer, unit) for unit in range(layer.units)]
    silent = torch.tensor([value <= 0.9 * sum(own) / len(own) for value in own])
    assert 0 < int(silent.sum()) < layer.units
    moments = pair.part.optimizer.state[pair.part.network.tensor("head.linear.weight")]
    assert not moments["exp_avg"][:, silent].any()
    assert bool(moments["exp_avg"][:, ~silent].all())


@pytest.mark.parametrize("activation", ["tanh", "gelu", "elu"])
def test_activations_that_are_not_homogeneous_are_refused(activation: str) -> None:
    spec = MLPSpec(widths=[4], activations=[activation])
    build = PartBuilder(spec, (3,), torch.float32, OptimizerSettings(), {"reborn": ReBorn})
    with pytest.raises(
        ValueError, match=rf"reborn needs activations with h\(c z\) = c h\(z\) .* which activation {activation} is not"
    ):
        build("q", HeadSpec("q", 2))


def test_an_offset_is_refused() -> None:
    spec = MLPSpec(widths=[4], activation_offset=1.0)
    build = PartBuilder(spec, (3,), torch.float32, OptimizerSettings(), {"reborn": ReBorn})
    with pytest.raises(ValueError, match=r"which network\.activation_offset=1\.0 is not"):
        build("q", HeadSpec("q", 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dormant_threshold": -0.1}, r"reborn\.dormant_threshold=-0\.1 must be between 0 and 1"),
        ({"overactive_threshold": 0.5}, r"reborn\.overactive_threshold=0\.5 must be at least 1"),
        ({"sharers": 0}, r"reborn\.sharers=0 must be at least 1"),
        ({"largest_scale": 0.2}, r"reborn\.largest_scale=0\.2 must be at least 0\.3"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReBorn(**settings)
