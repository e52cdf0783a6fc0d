from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.reset import Reset
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.residual import SimbaSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

BALANCE = LoadBalancingSpec(low=0.5, high=0.5)  # moves at every update
SPEC = ConvSpec(widths=[5, 4], channels=[3], normalisation=["batch"], load_balancing=BALANCE)
BLOCKS = ["conv_1", "dense_1", "dense_2", "head"]


def build(seed: int = 0, optimizer: str = "adam", treated: bool = True, spec: NetworkSpec = SPEC, **settings: Any) -> Updater:
    methods = {"reset": lambda: Reset(**settings)} if treated else {}
    chosen = OptimizerSettings(optimizer, 0.05, momentum=0.0 if optimizer == "adam" else 0.9)
    return PartBuilder(spec, (1, 4, 4), torch.float32, chosen, methods, seed)("q", HeadSpec("regression", 2))


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    inputs = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(step))
    return part.step(part.forward(inputs).square().mean(), None)


def values(part: Updater) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in part.network.state_dict().items()}


def block_of(name: str) -> str:
    return "head" if name.startswith("head") else name.split(".")[2]


@pytest.mark.parametrize(
    ("last_layers", "reset", "units"),
    [(0, BLOCKS, 12), (1, BLOCKS[3:], 0), (2, BLOCKS[2:], 4), (3, BLOCKS[1:], 9), (4, BLOCKS, 12)],
)
def test_which_layers(last_layers: int, reset: list[str], units: int) -> None:
    part = build(last_layers=last_layers)
    for step in range(4):
        update(part, step)
    before = values(part)
    assert part.task_switch(1) == {"reset/layers_reset": float(len(reset)), "reset/units_reset": float(units)}
    for name, value in values(part).items():
        changed = not torch.equal(value, before[name])
        assert changed == (block_of(name) in reset), name
        if changed and name in part.network.initialisers and part.network.initialisers[name].kind == "uniform":
            assert value.abs().max() <= part.network.initialisers[name].scale


def test_norms_and_buffers_are_fresh_after_a_full_reset() -> None:
    part = build()
    fresh = {name: value for name, value in values(part).items() if name not in dict(part.network.named_parameters())}
    for step in range(4):
        update(part, step)
    part.task_switch(1)
    now = values(part)
    assert all(torch.equal(now[name], value) for name, value in fresh.items())
    assert all((now[name] == (1.0 if name.endswith("weight") else 0.0)).all() for name in part.network.norm_parameters)


def test_two_resets_draw_different_weights_and_neither_the_initial_ones() -> None:
    part = build()
    seen = [values(part)]
    for task in (1, 2):
        part.task_switch(task)
        seen.append(values(part))
    drawn = [name for name, initialiser in part.network.initialisers.items() if initialiser.kind == "uniform"]
    assert drawn
    for one, two in [(0, 1), (0, 2), (1, 2)]:
        assert not any(torch.equal(seen[one][name], seen[two][name]) for name in drawn)


def test_draws_are_private_and_repeatable() -> None:
    def after(seed: int, global_seed: int) -> dict[str, Tensor]:
        torch.manual_seed(global_seed)
        part = build(seed)
        part.task_switch(1)
        part.task_switch(2)
        return values(part)

    one, two, other = after(0, 1), after(0, 2), after(1, 1)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(one["head.linear.weight"], other["head.linear.weight"])


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6]), (7, [7])])
def test_period(every: int, expected: list[int]) -> None:
    part = build(every_updates=every)
    assert [step for step in range(1, 8) if update(part, step)] == expected


@pytest.mark.parametrize("at_task_switch", [True, False])
def test_task_switch(at_task_switch: bool) -> None:
    part = build(at_task_switch=at_task_switch)
    before = values(part)
    logs = part.task_switch(1)
    assert bool(logs) == at_task_switch == any(not torch.equal(value, before[name]) for name, value in values(part).items())


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("last_layers", [0, 1])
def test_target_networks_are_copied_again(copies: bool, last_layers: int) -> None:
    part = build(copies=copies, last_layers=last_layers)
    part.copies["target"] = target = deepcopy(part.network)
    update(part)
    old = {name: value.clone() for name, value in target.state_dict().items()}
    part.task_switch(1)
    wanted = values(part) if copies else old
    assert all(torch.equal(value, wanted[name]) for name, value in target.state_dict().items())
    assert all(a is not b for a, b in zip(target.parameters(), part.network.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("last_layers", [0, 2])
def test_restart_is_a_fresh_optimizer_for_the_tensors_drawn_again(optimizer: str, last_layers: int) -> None:
    part = build(optimizer=optimizer, last_layers=last_layers, at_task_switch=True)
    for step in range(5):
        update(part, step)
    kept = {name: deepcopy(part.optimizer.state[value]) for name, value in part.network.named_parameters()}
    part.task_switch(1)
    # From here on a fresh optimizer over the same weights must do the same to the layers that were reset.
    twin = build(optimizer=optimizer, treated=False)
    twin.network.load_state_dict(part.network.state_dict())
    resets = BLOCKS if last_layers == 0 else BLOCKS[-last_layers:]
    for name, parameter in part.network.named_parameters():
        if block_of(name) not in resets:
            for key, value in kept[name].items():
                assert torch.equal(part.optimizer.state[parameter][key], value), (name, key)
            twin.optimizer.state[twin.network.tensor(name)] = deepcopy(kept[name])
    if optimizer != "sgd" or last_layers == 0:
        # (PyTorch's fused SGD cannot begin with momentum for some tensors only.)
        for step in range(7, 10):
            update(part, step)
            update(twin, step)
        for (name, value), other in zip(part.network.named_parameters(), twin.network.parameters(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-7, msg=name)
    else:
        update(part, 7)


@pytest.mark.parametrize(("policy", "step", "moments"), [("keep", 5.0, True), ("zero", 5.0, False)])
def test_other_policies(policy: str, step: float, moments: bool) -> None:
    part = build(optimizer_state=policy)
    for index in range(5):
        update(part, index)
    part.task_switch(1)
    for parameter in part.network.parameters():
        state = part.optimizer.state[parameter]
        assert float(state["step"]) == step
        assert bool(state["exp_avg_sq"].any()) == bool(state["exp_avg"].any()) == moments


def test_a_reset_restores_the_ability_to_learn_what_dead_weights_cannot() -> None:
    part = build(spec=ConvSpec(widths=[8], channels=[3]))
    with torch.no_grad():
        for value in part.network.parameters():
            value.fill_(-1.0)
        part.network.tensor("torso.layers.dense_1.linear.bias").fill_(-100.0)
    weight = part.network.tensor("torso.layers.dense_1.linear.weight")
    update(part)
    assert weight.grad is not None
    assert not bool(weight.grad.any())
    part.task_switch(1)
    update(part)
    assert weight.grad is not None
    assert bool(weight.grad.any())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"last_layers": -1}, r"reset\.last_layers=-1 must be at least 0"),
        ({"every_updates": -1}, r"reset\.every_updates=-1 must be at least 0"),
        ({"optimizer_state": "fresh"}, r"reset\.optimizer_state=fresh is unknown; choose from keep, zero, restart"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reset(**settings)


def test_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reset\.last_layers=5 must be between 0 and 4"):
        build(last_layers=5)


def test_units_of_all_members_of_an_ensemble_are_counted() -> None:
    builder = PartBuilder(MLPSpec(widths=[4, 3]), (2,), torch.float32, OptimizerSettings(), {"reset": Reset})
    part = builder("critic", HeadSpec("value", 1), members=2)
    assert part.task_switch(1) == {"reset/layers_reset": 3.0, "reset/units_reset": 14.0}


# Published forms


def test_single_updates_as_in_bro() -> None:
    part = build(at_updates=[2, 5], at_task_switch=False)
    assert [step for step in range(1, 8) if update(part, step)] == [2, 5]


@pytest.mark.parametrize("optimizer_state", ["keep", "restart"])
def test_a_head_set_to_zero_as_in_continual_imagenet(optimizer_state: str) -> None:
    part = build(last_layers=1, head="zero", optimizer_state=optimizer_state)
    part.copies["target"] = target = deepcopy(part.network)
    for step in range(3):
        update(part, step)
    before = values(part)
    part.task_switch(1)
    for network in (part.network, target):
        assert not network.tensor("head.linear.weight").any()
        assert not network.tensor("head.linear.bias").any()
    others = {name for name in before if not name.startswith("head")}
    assert all(torch.equal(part.network.state_dict()[name], before[name]) for name in others)
    state = part.optimizer.state[part.network.tensor("head.linear.weight")]
    assert float(state["step"]) == (3.0 if optimizer_state == "keep" else 0.0)
    part.step((part.forward(torch.ones(6, 1, 4, 4)) - 1).square().mean(), None)
    assert part.network.tensor("head.linear.weight").any()


@pytest.mark.parametrize(
    ("head", "zero", "other"),
    [
        (
            HeadSpec("gaussian", 2, second=HeadSpec("value", 1)),
            ["first.linear.weight", "second.linear.bias"],
            "first.log_deviation",
        ),
        (HeadSpec("q", 3, dueling=True, stream_widths=(4,)), ["value.weight", "advantage.bias"], "layers.value_1.linear.weight"),
        (HeadSpec("q", 3, noise_deviation=0.5), ["linear.weight", "linear.bias"], "linear.weight_deviation"),
    ],
)
def test_zero_is_for_the_maps_onto_the_outputs_of_every_head(head: HeadSpec, zero: list[str], other: str) -> None:
    part = PartBuilder(SPEC, (1, 4, 4), torch.float32, OptimizerSettings(), {"reset": lambda: Reset(head="zero")})("q", head)
    network = part.network
    with torch.no_grad():
        network.tensor(f"head.{other}").fill_(0.7)
    part.task_switch(1)
    assert not any(network.tensor(f"head.{name}").any() for name in zero)
    start = network.initialisers[f"head.{other}"]
    assert start.kind == "uniform" or (network.tensor(f"head.{other}") == start.scale).all()
    assert (network.tensor(f"head.{other}") != 0.7).all()


@pytest.mark.parametrize(
    ("spec", "shape", "blocks"),
    [
        (SimbaSpec(widths=[6]), (3,), ["embed", "block_1", "block_2", "head"]),
        (
            ResNetSpec(widths=[], channels=[4, 6], residual_blocks=1, normalisation=["batch"]),
            (3, 8, 8),
            ["stem", "block_1", "block_2", "head"],
        ),
    ],
)
def test_residual_networks(spec: NetworkSpec, shape: tuple[int, ...], blocks: list[str]) -> None:
    for last in range(len(blocks) + 1):
        make = {"reset": lambda last=last: Reset(last_layers=last)}
        part = PartBuilder(spec, shape, torch.float32, OptimizerSettings(), make)("q", HeadSpec("q", 2))
        assert [block.name for block in part.network.blocks] == blocks
        covered = {name for block in part.network.blocks for name in block.parameters}
        assert covered == {name for name, _ in part.network.named_parameters()}
        drawn = {name for name, start in part.network.initialisers.items() if start.kind != "constant"}
        before = values(part)
        part.task_switch(1)
        written = {name for block in part.network.blocks[-last:] for name in block.parameters} & drawn
        assert {name for name, value in part.network.named_parameters() if not torch.equal(value, before[name])} == written


def test_settings_of_the_head_are_checked() -> None:
    with pytest.raises(ValueError, match=r"reset\.head=keep is unknown; choose from resample, zero"):
        Reset(head="keep")
