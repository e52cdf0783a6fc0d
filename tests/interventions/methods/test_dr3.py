from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from plasticity.agents.dqn.agent import DQN
from plasticity.agents.dqn.settings import DQNSettings
from plasticity.agents.parts import PartBuilder
from plasticity.envs.experience import Experience, Transitions
from plasticity.interventions.methods.dr3 import DR3, coadaptation
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater


class Pair(NamedTuple):
    """States and those that follow."""

    inputs: Tensor
    next_inputs: Tensor


def build(treated: bool = True, head: HeadSpec | None = None, normalisation: list[str] | None = None, **settings: Any) -> Updater:
    methods = {"dr3": lambda: DR3(**settings)} if treated else {}
    spec = MLPSpec(widths=[5, 4], normalisation=normalisation or [], activations=["tanh"])
    return PartBuilder(spec, (3,), torch.float32, OptimizerSettings("adam", 0.05), methods)("q", head or HeadSpec("q", 2))


def pair(step: int, count: int = 6) -> Pair:
    return Pair(*torch.randn(2, count, 3, generator=torch.Generator().manual_seed(step)))


def hidden(part: Updater, inputs: Tensor) -> Tensor:
    layers: Any = part.network.get_submodule("torso.layers")
    for layer in layers.values():
        inputs = torch.tanh(inputs @ layer.linear.weight.T + layer.linear.bias)
    return inputs


def test_products_by_hand() -> None:
    # 1*3 + 2*1 = 5 and 0*1 - 1*7 = -7: mean -1; a second layer with 4 and 0 adds 2. Of absolute values: 6 + 2.
    here = [torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[2.0], [5.0]])]
    there = [torch.tensor([[3.0, 1.0], [1.0, 7.0]]), torch.tensor([[2.0], [0.0]])]
    assert coadaptation(here, there).item() == 1.0
    assert coadaptation(here, there, absolute=True).item() == 8.0


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("gradient", ["both", "current"])
def test_agrees_with_a_penalty_in_the_loss(absolute: bool, gradient: str) -> None:
    treated, plain = build(coefficient=0.3, absolute=absolute, gradient=gradient), build(treated=False)
    for step in range(5):
        batch = pair(step)
        logs = treated.step(treated.forward(batch.inputs).square().mean(), batch)
        loss = plain.forward(batch.inputs).square().mean()
        there = hidden(plain, batch.next_inputs)
        products = (hidden(plain, batch.inputs) * (there.detach() if gradient == "current" else there)).sum(1)
        penalty = 0.3 * (products.abs() if absolute else products).mean()
        torch.testing.assert_close(logs["dr3/loss"], penalty.detach())
        plain.step(loss + penalty, batch)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)


def test_features_of_both_streams_count() -> None:
    head = HeadSpec("q", 2, dueling=True, stream_widths=(4,))
    treated, plain = build(head=head, coefficient=0.3), build(treated=False, head=head)
    batch = pair(0)
    logs = treated.step(treated.forward(batch.inputs).square().mean(), batch)
    streams: Any = plain.network.get_submodule("head.layers")
    expected = 0.0
    for stream in streams.values():
        here, there = (torch.tanh(stream.linear(hidden(plain, inputs))) for inputs in batch)
        expected += (here * there).sum(1).mean().item() * 0.3
    assert float(logs["dr3/loss"]) == pytest.approx(expected, rel=1e-5)


def test_following_states_leave_running_statistics_and_taps_alone() -> None:
    treated, plain = build(normalisation=["batch"]), build(treated=False, normalisation=["batch"])
    batch = pair(0)
    for part in (treated, plain):
        part.step(part.forward(batch.inputs).square().mean(), batch)
    for name, value in plain.network.named_buffers():
        assert torch.equal(value, treated.network.tensor(name)), name
    for name, post in treated.network.taps.post.items():
        assert post.shape[0] == 6
        assert not torch.equal(post, torch.zeros_like(post)), name
    assert treated.network.training


def test_it_works_in_dqn_on_the_batch_s_next_inputs() -> None:
    seen: list[float] = []
    for coefficient in (0.0, 0.5):
        builder = PartBuilder(
            MLPSpec(widths=[5]),
            (3,),
            torch.float32,
            OptimizerSettings(),
            {"dr3": lambda c=coefficient: DR3(coefficient=c)},  # type: ignore[misc]
        )
        agent = DQN(DQNSettings(batch_size=4, buffer_transitions=20, warmup_env_steps=0, env_steps_per_update=1), 2, builder)
        logs: dict[str, Any] = {}
        for index in range(6):
            generator = torch.Generator().manual_seed(index)
            states, following = torch.randn(2, 1, 3, generator=generator)
            no = torch.tensor([False])
            logs = agent.learn(Experience(Transitions(states, torch.tensor([0]), torch.tensor([1.0]), no, no, following), 0))
        assert ("dr3/loss" in logs) == (coefficient > 0)
        seen.append(agent.q.network.tensor("head.linear.weight").sum().item())
    assert seen[0] != seen[1]


@pytest.mark.parametrize("kind", ["classification", "policy", "gaussian"])
def test_parts_without_values_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"^intervention dr3 needs values that bootstrap, and this part's outputs are {kind};"):
        build(head=HeadSpec(kind, 2))


def test_batches_without_following_states_are_refused() -> None:
    part = build(head=HeadSpec("value", 1))
    with pytest.raises(ValueError, match=r"^intervention dr3 needs the observations that follow, which this part's batches lack"):
        part.step(part.forward(torch.ones(2, 3)).sum(), None)


def test_dead_features_and_single_examples() -> None:
    part = build(coefficient=1.0)
    with torch.no_grad():
        for value in part.network.parameters():
            value.zero_()
    logs = part.step(part.forward(pair(0, 1).inputs).sum(), pair(0, 1))
    assert float(logs["dr3/loss"]) == 0.0
    assert all(value.isfinite().all() for value in part.network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coefficient": -1.0}, r"dr3\.coefficient=-1\.0 must be at least 0"),
        ({"gradient": "next"}, r"dr3\.gradient=next is unknown; choose from both, current"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DR3(**settings)
