"""DQN with a categorical return: who chooses the next action, and the projected target."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from plasticity.agents.dqn.agent import DQN, DQNSettings, TargetBatch
from plasticity.agents.parts import PartBuilder
from plasticity.agents.replay.buffer import ReplayBatch
from plasticity.networks.torsos.feedforward import MLPSpec

BuildPart = Callable[..., PartBuilder]


def hand_set(builder: BuildPart, double: bool) -> DQN:
    """Atoms 0, 1, 2, two actions. Target: means 0.5 and 1.5; online: means 2 and 0."""
    settings = DQNSettings(discount=0.5, loss="categorical", bins=3, value_low=0.0, value_high=2.0, double=double)
    agent = DQN(settings, 2, builder(inputs=(1,), spec=MLPSpec(widths=[])))
    target = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]).clamp(min=1e-30).log()
    online = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]).clamp(min=1e-30).log()
    for network, logits in ((agent.target, target), (agent.q.network, online)):
        with torch.no_grad():
            network.tensor("head.linear.weight").zero_()
            network.tensor("head.linear.bias").copy_(logits.flatten())
    return agent


@pytest.mark.parametrize(
    ("double", "expected"),
    [
        # The target's own mean chooses action 1, (0, 1/2, 1/2): 0.5 + 0.5 z puts a half at 1, a half at 1.5.
        (False, [0.0, 0.75, 0.25]),
        # The network chooses action 0, whose target distribution is (1/2, 1/2, 0): a half at 0.5, a half at 1.
        (True, [0.25, 0.75, 0.0]),
    ],
)
def test_targets_by_hand(builder: BuildPart, double: bool, expected: list[float]) -> None:
    states = torch.zeros(2, 1)
    batch = ReplayBatch(
        states, torch.tensor([0, 1]), torch.tensor([0.5, 1.25]), torch.tensor([False, True]), states, torch.full((2,), 0.5)
    )
    targets = hand_set(builder, double)._targets(batch)
    assert targets[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert targets[1].tolist() == pytest.approx([0.0, 0.75, 0.25], abs=1e-6)  # terminated: all mass at r = 1.25


def test_the_loss_is_the_cross_entropy_of_the_action_taken(builder: BuildPart) -> None:
    agent = hand_set(builder, False)
    outputs = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.rand(4, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    actions = torch.tensor([0, 1, 1, 0])
    loss, measures = agent._loss(outputs, TargetBatch(torch.zeros(4, 1), actions, targets, torch.ones(4), torch.zeros(4, 1)))
    torch.testing.assert_close(loss, functional.cross_entropy(outputs[torch.arange(4), actions], targets))
    assert measures["train/target_value"].item() == pytest.approx((targets @ torch.arange(3.0)).mean().item(), abs=1e-6)
    loss.backward()
    assert outputs.grad is not None
    assert not outputs.grad[torch.arange(4), 1 - actions].any()


def test_an_atom_of_vanishing_probability_still_learns(builder: BuildPart) -> None:
    # -sum m log softmax(x) has gradient softmax(x) - m: -1 at the target's atom however small its probability.
    agent = hand_set(builder, False)
    outputs = torch.tensor([[[0.0, 0.0, -60.0]] * 2], requires_grad=True)
    batch = TargetBatch(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1), torch.zeros(1, 1))
    agent._loss(outputs, batch)[0].backward()
    assert outputs.grad is not None
    assert outputs.grad[0, 0].tolist() == pytest.approx([0.5, 0.5, -1.0])
