from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention
from plasticity.interventions.methods.plasticity_injection import PlasticityInjection, injected_names
from plasticity.interventions.methods.reset import Reset
from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.networks.layers.injection import injections
from plasticity.networks.layers.noisy import fresh_noise
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.residual import SimbaSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.execution import Execution
from plasticity.updates.updater import Updater

RAINBOW = HeadSpec("categorical", 3, 5, -1.0, 1.0, dueling=True, stream_widths=(5,), noise_deviation=0.5)
SPECS = {
    "mlp": (MLPSpec(widths=[6, 5]), (3,), HeadSpec("q", 2), 1),
    "conv": (
        ConvSpec(widths=[6, 5], channels=[3], activations=["crelu"], normalisation=["batch"]),
        (1, 5, 5),
        HeadSpec("q", 2),
        1,
    ),
    "rainbow": (ConvSpec(widths=[], channels=[3]), (1, 5, 5), RAINBOW, 1),
    "critics": (SimbaSpec(widths=[6]), (3,), HeadSpec("value", 1), 2),
}


def build(layout: str = "mlp", others: dict[str, Intervention] | None = None, seed: int = 0, **settings: Any) -> Updater:
    spec, inputs, head, members = SPECS[layout]
    name = settings.pop("optimizer", "adam")
    methods: dict[str, Any] = {"plasticity_injection": lambda: PlasticityInjection(**settings)}
    methods |= {key: lambda method=method: method for key, method in (others or {}).items()}
    part = PartBuilder(spec, inputs, torch.float32, OptimizerSettings(name, 0.02), methods, seed)
    return part("q", head, members=members)


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    with fresh_noise(part.network.noisy_layers, torch.Generator().manual_seed(step)):
        return part.step((part.forward(inputs) - 1).square().mean(), None)


def outputs(part: Updater) -> Tensor:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(99))
    return part.predict(inputs)


@pytest.mark.parametrize("layout", SPECS)
def test_outputs_stay_and_the_optimizer_is_fresh_where_it_should_be(layout: str) -> None:
    part = build(layout)
    for step in range(3):
        update(part, step)
    before, target = outputs(part), deepcopy(part.network)
    part.copies["target"] = target
    kept = {name: deepcopy(part.optimizer.state[p]) for name, p in part.network.named_parameters()}
    ids = [id(p) for p in part.network.parameters()]
    assert part.task_switch(1) == {"plasticity_injection/injected": 1.0}
    assert torch.equal(outputs(part), before)
    assert torch.equal(
        part.infer(torch.zeros(2, *part.network.input_shape), target), part.predict(torch.zeros(2, *part.network.input_shape))
    )
    written = injected_names(part.network)
    assert all(".head." in f".{name}" or any(key in name for key in ("dense_2", "block_2", "final")) for name in written)
    for name, parameter in part.network.named_parameters():
        state = part.optimizer.state[parameter]
        if name in written:
            assert not any(bool(torch.as_tensor(value).any()) for value in state.values())
        else:
            assert all(torch.equal(state[key], value) for key, value in kept[name].items())
    update(part, 9)
    assert not torch.equal(outputs(part), before)
    assert [id(p) for p in part.network.parameters()] == ids
    assert [id(p) for group in part.optimizer.param_groups for p in group["params"]] == ids


def test_it_happens_once() -> None:
    part = build(at_update=2)
    assert [step for step in range(1, 5) if update(part, step)] == [2]
    assert part.task_switch(1) == {}
    part = build(at_task_switch=False)
    assert part.task_switch(1) == {}


@pytest.mark.parametrize("layout", SPECS)
@pytest.mark.parametrize("saved_after", [1, 3])
def test_resuming_before_and_after_the_injection(layout: str, saved_after: int) -> None:
    whole, half = build(layout, at_update=2), build(layout, at_update=2)
    for part in (whole, half):
        part.copies["target"] = deepcopy(part.network)
        for step in range(1, saved_after + 1):
            update(part, step)
    resumed = build(layout, seed=5, at_update=2)
    resumed.copies["target"] = deepcopy(resumed.network)
    resumed.load_state_dict(deepcopy(half.state_dict()))
    assert torch.equal(outputs(resumed), outputs(half))
    for step in range(saved_after + 1, 6):
        update(whole, step)
        update(resumed, step)
    one, two = whole.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    x = torch.ones(2, *whole.network.input_shape)
    assert torch.equal(*(part.infer(x, part.copies["target"]) for part in (whole, resumed)))


@pytest.mark.parametrize("layout", ["mlp", "conv", "rainbow"])
def test_resetting_dead_units_leaves_the_function_alone(layout: str) -> None:
    part = build(layout)
    update(part, 0)
    part.task_switch(1)
    update(part, 1)
    network = part.network
    masks = {}
    with torch.no_grad():
        for layer in network.units.layers:
            masks[layer.name] = torch.arange(layer.units) == 2
            for slice_ in layer.weights:
                network.tensor(slice_.tensor)[2] = 0.0
            assert layer.bias is not None
            network.tensor(layer.bias.tensor)[2] = 0.0
            for norm in layer.norms:
                network.tensor(norm.slice.tensor)[2] = 0.0
    before = outputs(part)
    policy = ResetPolicy(norm=True, optimizer_state="restart")
    generator = torch.Generator().manual_seed(0)
    reset_units(network, part.optimizer, masks, policy, generator)
    torch.testing.assert_close(outputs(part), before, rtol=1e-5, atol=1e-6)
    assert all(network.tensor(layer.weight.tensor)[2].any() for layer in network.units.layers)


def test_a_full_reset_takes_the_companions_away() -> None:
    part = build("conv", {"reset": Reset()})
    update(part, 0)
    logs = part.task_switch(1)
    assert logs["plasticity_injection/injected"] == logs["reset/layers_reset"] / 4 == 1.0
    assert not any(value.any() for injection in injections(part.network) for value in injection.buffers())
    x = torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    with_companions = part.predict(x)
    fresh = part.network.fresh(0)
    fresh.load_state_dict(part.network.state_dict())
    assert not injections(fresh)[0].active.on
    torch.testing.assert_close(with_companions, part.infer(x, fresh))  # its memory has another layout, so other kernels run
    # Companions of 0 add exactly nothing: with the same tensors, the outputs are those without them.
    injections(part.network)[0].active.on = False
    assert torch.equal(with_companions, part.predict(x))


def test_sgd_has_no_state_to_restart() -> None:
    part = build(optimizer="sgd", at_update=1)
    assert update(part, 1)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"plasticity_injection\.layers=1 must be at least 2"):
        PlasticityInjection(layers=1)
    with pytest.raises(ValueError, match=r"plasticity_injection\.at_update=-1 must be at least 0"):
        PlasticityInjection(at_update=-1)
    make: dict[str, Any] = {"plasticity_injection": lambda: PlasticityInjection()}
    builder = PartBuilder(MLPSpec(), (3,), torch.float32, OptimizerSettings(), make, execution=Execution(compile=True))
    with pytest.raises(ValueError, match="compile=true does not work with plasticity_injection"):
        builder("q", HeadSpec("q", 2))
