from typing import Any

import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.adam_rel import AdamRel
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

RATE = 0.01


def build(optimizer: str = "adam", **settings: Any) -> Updater:
    methods = {"adam_rel": lambda: AdamRel(**settings)}
    part = PartBuilder(MLPSpec(widths=[5]), (3,), torch.float32, OptimizerSettings(optimizer, RATE), methods)
    return part("q", HeadSpec("regression", 2))


def test_against_adam_by_hand() -> None:
    part = build(every_updates=3)
    network = part.network
    first, second = ({name: torch.zeros_like(value) for name, value in network.named_parameters()} for _ in range(2))
    count = 0
    for step in range(1, 9):
        inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
        loss = part.forward(inputs).square().mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        count += 1
        expected = {}
        for (name, value), gradient in zip(network.named_parameters(), gradients, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            scale = (second[name] / (1 - 0.999**count)).sqrt() + 1e-8
            expected[name] = value.detach() - RATE * first[name] / (1 - 0.9**count) / scale
        if step % 3 == 0:  # the moments go on
            count = 0
        assert part.step(loss, None) == ({"adam_rel/applied": 1.0} if step % 3 == 0 else {})
        for name, value in network.named_parameters():
            torch.testing.assert_close(value.detach(), expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_default_period_is_that_of_dqns_target() -> None:
    from plasticity.agents.dqn.agent import DQNSettings

    assert AdamRel().every_updates == DQNSettings().target_every_updates


@pytest.mark.parametrize("at_task_switch", [True, False])
def test_task_switch(at_task_switch: bool) -> None:
    part = build(at_task_switch=at_task_switch)
    part.step(part.forward(torch.ones(2, 3)).square().mean(), None)
    assert bool(part.task_switch(1)) == at_task_switch
    states = list(part.optimizer.state.values())
    assert all(float(state["step"]) == (0.0 if at_task_switch else 1.0) for state in states)
    assert any(bool(state["exp_avg"].any()) for state in states)


def test_other_optimizers_are_refused() -> None:
    with pytest.raises(ValueError, match="adam_rel needs optimizer=adam, not sgd"):
        build("sgd")


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"adam_rel\.every_updates=-1 must be at least 0"):
        AdamRel(every_updates=-1)
