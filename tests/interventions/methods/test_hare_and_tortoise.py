from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.hare_and_tortoise import HareAndTortoise, follow
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.residual import SimbaSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SPECS = {
    "mlp": (MLPSpec(widths=[5, 4]), (3,), HeadSpec("regression", 2)),
    "conv": (
        ConvSpec(widths=[4], channels=[3], activations=["crelu"], normalisation=["batch"]),
        (1, 5, 5),
        HeadSpec("q", 2, dueling=True, stream_widths=(4,), noise_deviation=0.5),
    ),
    "simba": (SimbaSpec(widths=[4]), (3,), HeadSpec("regression", 2)),
}


def build(layout: str = "mlp", treated: bool = True, members: int = 1, optimizer: str = "adam", **settings: Any) -> Updater:
    spec, inputs, head = SPECS[layout]
    methods = {"hare_and_tortoise": lambda: HareAndTortoise(**settings)} if treated else {}
    make = PartBuilder(spec, inputs, torch.float32, OptimizerSettings(optimizer, 0.05), methods)
    return make("q", HeadSpec("value", 1) if members > 1 else head, members=members)


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.step((part.forward(inputs) - 1).square().mean(), None)


def values(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in [*network.named_parameters(), *network.named_buffers()]}


def test_following_by_hand() -> None:
    # 0.75 * 4 + 0.25 * 8 = 5.
    slow, fast = [torch.tensor([4.0, 0.0])], [torch.tensor([8.0, -4.0])]
    follow(slow, fast, 0.75)
    assert slow[0].tolist() == [5.0, -1.0]
    assert fast[0].tolist() == [8.0, -4.0]


@pytest.mark.parametrize("layout", SPECS)
def test_against_plain_arithmetic(layout: str) -> None:
    # SGD, since Adam makes whole steps of what rounding leaves of a gradient of 0, that of a bias before normalisation.
    part = build(layout, optimizer="sgd", momentum=0.9, every_updates=3)
    plain = build(layout, treated=False, optimizer="sgd")
    tortoise = {name: value.double() for name, value in values(plain.network).items()}
    for step in range(1, 9):
        logs, _ = update(part, step), update(plain, step)
        for name, value in values(plain.network).items():
            moving = value.is_floating_point()
            tortoise[name] = 0.9 * tortoise[name] + 0.1 * value.double() if moving else value.double()
        if step % 3 == 0:
            gaps = [(tortoise[name] - value.double()) for name, value in values(plain.network).items()]
            expected = torch.cat([gap.flatten() for gap in gaps]).norm().float()
            torch.testing.assert_close(logs["hare_and_tortoise/distance"], expected, rtol=1e-3, atol=1e-5)
            with torch.no_grad():
                for name, value in [*plain.network.named_parameters(), *plain.network.named_buffers()]:
                    value.copy_(tortoise[name])
        assert bool(logs) == (step % 3 == 0)
        for name, value in values(part.evaluation_network()).items():
            torch.testing.assert_close(value.double(), tortoise[name].double(), rtol=1e-3, atol=1e-5, msg=name)
        for name, value in values(part.network).items():
            torch.testing.assert_close(value, values(plain.network)[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_tortoise_predicts_and_does_not_learn() -> None:
    part = build(momentum=0.99)
    start = values(part.network)
    for step in range(5):
        update(part, step)
    tortoise = part.evaluation_network()
    assert tortoise is not part.network
    assert not any(parameter.requires_grad for parameter in tortoise.parameters())
    inputs = torch.ones(2, 3)
    assert torch.equal(part.predict(inputs), tortoise(inputs))
    assert not torch.equal(part.predict(inputs), part.network(inputs))
    moved = {name: (value - start[name]).abs().max() for name, value in values(tortoise).items()}
    gone = {name: (value - start[name]).abs().max() for name, value in values(part.network).items()}
    assert all(0 < moved[name] < 0.1 * gone[name] for name in moved)


def test_the_hare_may_be_evaluated_instead() -> None:
    part = build(evaluate="hare")
    update(part)
    assert part.evaluation_network() is part.network


@pytest.mark.parametrize("layout", SPECS)
def test_resuming(layout: str) -> None:
    whole, half = (build(layout, momentum=0.9, every_updates=4) for _ in range(2))
    for step in range(6):
        update(whole, step)
        update(half, step)
    resumed = build(layout, momentum=0.9, every_updates=4)
    acting = resumed.evaluation_network()
    resumed.load_state_dict(deepcopy(half.state_dict()))
    for step in range(6, 10):
        update(whole, step)
        update(resumed, step)
    for one, two in ((whole.network, resumed.network), (whole.evaluation_network(), acting)):
        assert all(torch.equal(value, values(two)[name]) for name, value in values(one).items())


def test_no_momentum_is_the_plain_run() -> None:
    part, plain = build(momentum=0.0, every_updates=2), build(treated=False)
    for step in range(6):
        update(part, step)
        update(plain, step)
        assert all(torch.equal(a, b) for a, b in zip(part.network.parameters(), plain.network.parameters(), strict=True))
        assert torch.equal(part.predict(torch.ones(2, 3)), plain.predict(torch.ones(2, 3)))


@pytest.mark.parametrize(("policy", "count"), [("keep", 3.0), ("restart", 0.0)])
def test_optimizer_and_targets_when_the_hare_is_set_back(policy: str, count: float) -> None:
    part = build(every_updates=3, optimizer_state=policy, copies=policy == "restart", members=2)
    part.copies["target"] = target = deepcopy(part.network)
    for step in range(1, 4):
        update(part, step)
    assert all(float(part.optimizer.state[p]["step"]) == count for p in part.network.parameters())
    same = all(torch.equal(a, b) for a, b in zip(target.parameters(), part.network.parameters(), strict=True))
    assert same == (policy == "restart")


def test_task_switch_is_a_setting() -> None:
    for at_task_switch in (True, False):
        part = build(at_task_switch=at_task_switch, every_updates=0)
        update(part)
        assert bool(part.task_switch(1)) == at_task_switch


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.1}, r"hare_and_tortoise\.momentum=1\.1 must be between 0 and 1"),
        ({"evaluate": "fox"}, r"hare_and_tortoise\.evaluate=fox is unknown; choose from tortoise, hare"),
        ({"every_updates": -1}, r"hare_and_tortoise\.every_updates=-1 must be at least 0"),
        ({"optimizer_state": "x"}, r"optimizer_state=x is unknown"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HareAndTortoise(**settings)
