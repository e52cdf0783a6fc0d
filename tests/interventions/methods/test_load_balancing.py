from typing import Any

import pytest
import torch
from torch.nn import functional

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.load_balancing import LoadBalancing
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater


def build(spec: NetworkSpec, inputs: tuple[int, ...], learning_rate: float = 0.05, **settings: Any) -> Updater:
    methods = {"load_balancing": lambda: LoadBalancing(**settings)}
    return PartBuilder(spec, inputs, torch.float32, OptimizerSettings("sgd", learning_rate), methods)("q", HeadSpec("q", 2))


def update(part: Updater, inputs: torch.Tensor) -> None:
    part.step(part.forward(inputs).square().sum(), None)


def test_shift_by_hand() -> None:
    # One weight per unit, 1, -1 and 1 with bias 0, 0 and -2.5; inputs 1, 2, 3, -1: rates z > 0 are 3/4, 1/4 and 1/4.
    # Decay 0.5 from 0.5: 0.625, 0.375, 0.375. Bounds 0.4 and 0.6: shifts -0.1, +0.1, +0.1.
    # Second update, shifted z: unit 0: 0.9 1.9 2.9 -1.1 -> 3/4; average 0.6875 -> -0.2. Unit 1: -0.9 ... 1.1 -> 1/4;
    # average 0.3125 -> +0.2. Unit 2: -1.4 -0.4 0.6 -3.4 -> 1/4 -> 0.3125 -> +0.2.
    part = build(MLPSpec(widths=[3]), (1,), learning_rate=0.0, step_size=0.1, decay=0.5)
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.linear.weight").copy_(torch.tensor([[1.0], [-1.0], [1.0]]))
        part.network.tensor("torso.layers.dense_1.linear.bias").copy_(torch.tensor([0.0, 0.0, -2.5]))
    inputs = torch.tensor([[1.0], [2.0], [3.0], [-1.0]])
    path = "torso.layers.dense_1.balance"
    update(part, inputs)
    assert part.network.get_buffer(f"{path}.firing_rate").tolist() == pytest.approx([0.625, 0.375, 0.375])
    assert part.network.get_buffer(f"{path}.offset").tolist() == pytest.approx([-0.1, 0.1, 0.1])
    update(part, inputs)
    assert part.network.get_buffer(f"{path}.firing_rate").tolist() == pytest.approx([0.6875, 0.3125, 0.3125])
    assert part.network.get_buffer(f"{path}.offset").tolist() == pytest.approx([-0.2, 0.2, 0.2])


@pytest.mark.parametrize("layout", ["dense", "conv", "crelu"])
def test_against_plain_loops(layout: str) -> None:
    spec = {
        "dense": MLPSpec(widths=[5]),
        "conv": ConvSpec(widths=[], channels=[3]),
        "crelu": MLPSpec(widths=[4], activations=["crelu"]),
    }[layout]
    shape = (1, 4, 4) if layout == "conv" else (3,)
    name = "conv_1" if layout == "conv" else "dense_1"
    part = build(spec, shape, low=0.45, high=0.55, step_size=0.03, decay=0.8)
    units = 3 if layout == "conv" else part.network.units[name].units
    rates, shifts = [0.5] * units, [0.0] * units
    for step in range(12):
        inputs = torch.randn(6, *shape, generator=torch.Generator().manual_seed(step))
        values = {key: value.detach().clone() for key, value in part.network.named_parameters()}
        weight, bias = values[f"torso.layers.{name}.linear.weight"], values[f"torso.layers.{name}.linear.bias"]
        z = functional.conv2d(inputs, weight, bias) if layout == "conv" else functional.linear(inputs, weight, bias)
        for unit in range(units):
            fired = [float(value) + shifts[unit] > 0 for value in z[:, unit].flatten()]
            rates[unit] = 0.8 * rates[unit] + 0.2 * sum(fired) / len(fired)
        for unit in range(units):
            shifts[unit] += 0.03 if rates[unit] < 0.45 else -0.03 if rates[unit] > 0.55 else 0.0
        update(part, inputs)
        path = f"torso.layers.{name}.balance"
        assert part.network.get_buffer(f"{path}.firing_rate").tolist() == pytest.approx(rates, abs=1e-5)
        assert part.network.get_buffer(f"{path}.offset").tolist() == pytest.approx(shifts, abs=1e-5)
    assert any(shift != 0 for shift in shifts)


def test_activation_receives_the_shifted_value_and_the_shift_no_gradient() -> None:
    part = build(MLPSpec(widths=[3]), (2,))
    with torch.no_grad():
        part.network.get_buffer("torso.layers.dense_1.balance.offset").copy_(torch.tensor([100.0, 0.0, -100.0]))
    inputs = torch.randn(4, 2)
    values = {name: value.detach() for name, value in part.network.named_parameters()}
    z = functional.linear(
        inputs, values["torso.layers.dense_1.linear.weight"], values["torso.layers.dense_1.linear.bias"]
    ) + torch.tensor([100.0, 0.0, -100.0])
    expected = functional.linear(z.relu(), values["head.linear.weight"], values["head.linear.bias"])
    torch.testing.assert_close(part.predict(inputs), expected)
    held = [id(parameter) for group in part.optimizer.param_groups for parameter in group["params"]]
    assert id(part.network.get_buffer("torso.layers.dense_1.balance.offset")) not in held


def test_firing_rates_are_driven_into_their_bounds() -> None:
    part = build(MLPSpec(widths=[6]), (3,), learning_rate=0.0, step_size=0.02, decay=0.9)
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.linear.bias").copy_(torch.tensor([2.0, -2.0, 1.0, -1.0, 0.0, 3.0]))
    inputs = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(400):
        update(part, inputs)
    with part.network.taps.record():
        part.predict(inputs)
    rates = (part.network.taps.pre["dense_1"] > 0).float().mean(0)
    assert ((rates > 0.35) & (rates < 0.65)).all()


def test_predictions_do_not_move_the_shift() -> None:
    part = build(MLPSpec(widths=[3]), (2,), step_size=0.1, decay=0.0)
    before = {name: value.clone() for name, value in part.network.state_dict().items()}
    part.predict(torch.randn(5, 2))
    assert all(torch.equal(value, before[name]) for name, value in part.network.state_dict().items())


def test_place_is_between_normalisation_and_activation() -> None:
    part = build(MLPSpec(widths=[4], normalisation=["layer"]), (3,))
    inputs = torch.randn(5, 3)
    with torch.no_grad():
        part.network.get_buffer("torso.layers.dense_1.balance.offset").fill_(7.0)
    with part.network.taps.record():
        part.predict(inputs)
    # A layer normalisation has mean 0 over units; the shift of 7 is added behind it.
    torch.testing.assert_close(part.network.taps.pre["dense_1"].mean(1), torch.full((5,), 7.0), rtol=1e-4, atol=1e-4)


def test_tanh_is_refused() -> None:
    with pytest.raises(ValueError, match=r"load_balancing does not work with activation tanh.*choose relu"):
        build(MLPSpec(widths=[4], activations=["tanh"]), (3,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": -0.1}, r"load_balancing\.low=-0\.1 must be between 0 and 1"),
        ({"low": 0.7}, r"load_balancing\.high=0\.6 must be between 0\.7 and 1"),
        ({"high": 1.1}, r"load_balancing\.high=1\.1"),
        ({"step_size": -0.1}, r"load_balancing\.step_size=-0\.1 must be at least 0"),
        ({"decay": 1.5}, r"load_balancing\.decay=1\.5 must be between 0 and 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadBalancing(**settings)
