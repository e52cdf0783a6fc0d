from typing import Any

import pytest
import torch
from torch.optim import Adam

from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings, build_optimizer
from plasticity.optimizers.unit_adam import UnitAdam


def network() -> Network:
    return build_network(MLPSpec(widths=[3], normalisation=["layer"]), (2,), torch.float32, HeadSpec("q", 2), 0)


@pytest.mark.parametrize(("name", "kind"), [("adam", UnitAdam), ("sgd", torch.optim.SGD), ("rmsprop", torch.optim.RMSprop)])
def test_optimizer_holds_every_parameter_once(name: str, kind: type) -> None:
    net = network()
    optimizer = build_optimizer(OptimizerSettings(name, 0.25), net)
    assert type(optimizer) is kind
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in net.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [0.25]
    assert all(group["weight_decay"] == 0 for group in optimizer.param_groups)


def test_settings_reach_adam() -> None:
    group = build_optimizer(OptimizerSettings("adam", 0.1, [0.5, 0.75], 1e-3), network()).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["fused"]) == (0.1, (0.5, 0.75), 1e-3, True)


def test_settings_reach_sgd_and_rmsprop() -> None:
    sgd = build_optimizer(OptimizerSettings("sgd", 0.1, momentum=0.9), network()).param_groups[0]
    assert (sgd["momentum"], sgd["fused"], sgd["nesterov"]) == (0.9, True, False)
    settings = OptimizerSettings("rmsprop", 0.1, momentum=0.5, smoothing=0.75, epsilon=0.01, centered=False)
    rms = build_optimizer(settings, network()).param_groups[0]
    assert (rms["alpha"], rms["eps"], rms["momentum"], rms["centered"]) == (0.75, 0.01, 0.5, False)


def test_adam_without_restarts_is_torch_adam() -> None:
    one, two = network(), network()
    mine, other = build_optimizer(OptimizerSettings("adam", 0.05), one), Adam(two.parameters(), lr=0.05, fused=True)
    for step in range(5):
        inputs = torch.randn(7, 2, generator=torch.Generator().manual_seed(step))
        for net, optimizer in ((one, mine), (two, other)):
            optimizer.zero_grad()
            net(inputs).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "adamw"},
            r"optimizer\.name=adamw is unknown \(did you mean adam\?\); choose from adam, kron, muon, rmsprop, sgd",
        ),
        ({"learning_rate": -1.0}, r"optimizer\.learning_rate=-1\.0 must be at least 0"),
        ({"epsilon": -1.0}, r"optimizer\.epsilon=-1\.0"),
        ({"momentum": 1.5}, r"optimizer\.momentum=1\.5"),
        ({"smoothing": 1.5}, r"optimizer\.smoothing=1\.5"),
        ({"betas": [0.9]}, "betas.*two numbers"),
        ({"betas": [0.9, 1.0]}, "betas.*two numbers"),
        ({"max_gradient_norm": -1.0}, r"optimizer\.max_gradient_norm=-1\.0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**settings)
