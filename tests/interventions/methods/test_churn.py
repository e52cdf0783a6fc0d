from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.churn import Churn, cross_entropy_churn, readout_of, relative_coefficient, squared_churn
from plasticity.networks.layers.noisy import fresh_noise
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater


class Inputs(NamedTuple):
    """What an update learns from."""

    inputs: Tensor


ATOMS: dict[str, Any] = {"bins": 5, "low": -1.0, "high": 1.0}
PAIR = HeadSpec("policy", 3, second=HeadSpec("categorical", 1, **ATOMS))


def entropy(new: Tensor, old: Tensor) -> Tensor:
    return -(torch.softmax(old, -1) * torch.log(torch.softmax(new, -1))).sum(-1).mean()


def distance(new: Tensor, old: Tensor) -> Tensor:
    return ((new - old) ** 2).mean()


def expected(logits: Tensor) -> Tensor:
    return torch.softmax(logits, -1) @ torch.linspace(-1, 1, 5)


HEADS: dict[str, tuple[HeadSpec, dict[str, Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "values": (HeadSpec("q", 3), {}, distance),
    "categorical values": (HeadSpec("categorical", 3, **ATOMS), {}, lambda new, old: distance(expected(new), expected(old))),
    "categorical distributions": (HeadSpec("categorical", 3, **ATOMS), {"distance": "cross_entropy"}, entropy),
    "policy": (HeadSpec("policy", 3), {}, entropy),
    "logits": (HeadSpec("policy", 3), {"distance": "squared"}, distance),
    "gaussian": (HeadSpec("gaussian", 3), {}, lambda new, old: distance(new[:, :3], old[:, :3])),
    "policy of a pair": (PAIR, {}, lambda new, old: entropy(new[:, :3], old[:, :3])),
    "value of a pair": (PAIR, {"output": "value"}, lambda new, old: distance(expected(new[:, 3:]), expected(old[:, 3:]))),
}


def build(head: HeadSpec | None = None, treated: bool = True, seed: int = 0, **settings: Any) -> Updater:
    methods = {"churn": lambda: Churn(**{"relative": 0.0, "coefficient": 2.0} | settings)} if treated else {}
    spec = MLPSpec(widths=[5, 4], activations=["tanh"])
    return PartBuilder(spec, (3,), torch.float32, OptimizerSettings("adam", 0.05), methods, seed)("q", head or HeadSpec("q", 3))


def batch_of(step: int, count: int = 6) -> Inputs:
    return Inputs(torch.randn(count, 3, generator=torch.Generator().manual_seed(step)))


def update(part: Updater, step: int, count: int = 6) -> dict[str, Any]:
    batch = batch_of(step, count)
    return part.step((part.forward(batch.inputs) - step).square().mean(), batch)


class Naive:
    """Keeps copies of everything and looks back."""

    def __init__(self, measure: Callable[[Tensor, Tensor], Tensor], lag: int = 1) -> None:
        self.measure, self.lag = measure, lag
        self.networks: list[Network] = []
        self.batches: list[Inputs] = []

    def term(self, part: Updater, batch: Inputs) -> Tensor | None:
        self.networks.append(deepcopy(part.network))
        self.batches.append(batch)
        if len(self.networks) < self.lag + 2:
            return None
        inputs = self.batches[-2 - self.lag].inputs
        return self.measure(part.network(inputs), self.networks[-1 - self.lag](inputs).detach())


def test_distances_by_hand() -> None:
    # (1 + 4 + 0 + 9) / 4.
    assert squared_churn(torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.zeros(2, 2)).item() == 3.5
    # Old probabilities 3/4 and 1/4, new ones 1/2 each: -log(1/2); and with itself the entropy.
    old = torch.tensor([[3.0, 1.0]]).log()
    assert cross_entropy_churn(torch.zeros(1, 2), old).item() == pytest.approx(0.693147)
    assert cross_entropy_churn(old, old).item() == pytest.approx(0.562335)


def test_coefficient_by_hand() -> None:
    assert relative_coefficient(torch.tensor(2.0), torch.tensor(0.5), 0.05).item() == pytest.approx(0.2)
    assert relative_coefficient(torch.tensor(2.0), torch.tensor(0.0), 0.05).isfinite()


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("case", HEADS)
def test_agrees_with_copies_that_are_kept(case: str, lag: int) -> None:
    head, settings, measure = HEADS[case]
    treated, plain = build(head, lag_updates=lag, **settings), build(head, treated=False)
    naive = Naive(measure, lag)
    for step in range(8):
        count = 6 - step % 3  # batches need not be of one size
        logs, batch = update(treated, step, count), batch_of(step, count)
        loss = (plain.forward(batch.inputs) - step).square().mean()
        term = naive.term(plain, batch)
        assert ("churn/loss" in logs) == (term is not None) == (step > lag)
        if term is not None:
            torch.testing.assert_close(logs["churn/loss"], 2 * term.detach(), rtol=1e-3, atol=1e-5)
            loss = loss + 2 * term
        plain.step(loss, batch)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-2, atol=1e-4)


def test_relative_strength_follows_the_published_means() -> None:
    treated, plain = build(relative=0.3, adapt_after_updates=5, average_updates=1000), build(treated=False)
    naive = Naive(distance)
    losses: list[float] = []
    churns: list[float] = []
    for step in range(12):
        logs, batch = update(treated, step), batch_of(step)
        loss = (plain.forward(batch.inputs) - step).square().mean()
        term = naive.term(plain, batch)
        if term is None:
            plain.step(loss, batch)
            continue
        adapted = step + 1 > 5  # ``step`` counts from 0
        strength = 0.3 * sum(losses) / len(losses) / (sum(churns) / len(churns) + 1e-8) if adapted else 2.0
        assert float(logs["churn/loss"]) == pytest.approx(strength * term.item(), rel=1e-3)
        losses.append(loss.item())
        churns.append(term.item())
        plain.step(loss + strength * term, batch)
    state = treated.interventions["churn"].state
    assert float(state["mean_loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    assert float(state["mean_churn"]) == pytest.approx(sum(churns) / len(churns), rel=1e-2)


def test_means_forget_after_their_span() -> None:
    part = build(relative=0.3, average_updates=2)
    loss_of: list[float] = []
    for step in range(6):
        loss_of.append(float((part.network(batch_of(step).inputs) - step).square().mean().detach()))
        update(part, step)
    mean = loss_of[2]  # the first two updates have no churn
    for loss in loss_of[3:]:
        mean += (loss - mean) / 2
    assert float(part.interventions["churn"].state["mean_loss"]) == pytest.approx(mean, rel=1e-4)


def test_evaluation_mode_leaves_statistics_and_taps_alone() -> None:
    spec = MLPSpec(widths=[5], normalisation=["batch"])
    still = OptimizerSettings("sgd", 0.0)
    parts = [
        PartBuilder(spec, (3,), torch.float32, still, methods)("q", HeadSpec("q", 2))
        for methods in ({}, {"churn": lambda: Churn(relative=0.0)})
    ]
    for step in range(5):
        for part in parts:
            update(part, step)
    for (name, value), other in zip(parts[0].network.named_buffers(), parts[1].network.buffers(), strict=True):
        assert torch.equal(value, other), name
    assert parts[1].network.training
    old = parts[1].interventions["churn"].state["old_0/torso.layers.dense_1.norms.0.num_batches_tracked"]
    assert int(old) == 5  # buffers lag like weights; the copy is made after the forward of the update


def test_both_networks_have_the_same_noise() -> None:
    head = HeadSpec("q", 2, noise_deviation=0.5)
    part = PartBuilder(MLPSpec(widths=[4]), (3,), torch.float32, OptimizerSettings("sgd", 0.0), {"churn": Churn})("q", head)
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        with fresh_noise(part.network.noisy_layers, generator):
            logs = update(part, step)
        if step > 1:
            assert float(logs["churn/loss"]) == 0.0  # nothing has moved


def test_churn_falls() -> None:
    moved = []
    for coefficient in (0.0, 200.0):
        part = build(coefficient=coefficient)
        total = 0.0
        for step in range(60):
            probe = batch_of(1000 + step).inputs
            before = part.predict(probe)
            batch, noise = batch_of(step), 3 * batch_of(5000 + step).inputs
            part.step((part.forward(batch.inputs) - noise).square().mean(), batch)
            total += float((part.predict(probe) - before).square().mean())
        moved.append(total)
    assert moved[1] < 0.5 * moved[0]


def test_it_resumes_exactly_after_any_update() -> None:
    for stop in (0, 1, 2, 5):
        settings: dict[str, Any] = {"relative": 0.2, "adapt_after_updates": 4, "average_updates": 3, "lag_updates": 2}
        whole, resumed = build(**settings), build(seed=3, **settings)
        for step in range(stop):
            update(whole, step)
        saved = deepcopy(whole.state_dict())
        resumed.load_state_dict(saved)
        for step in range(stop, stop + 6):
            one, two = update(whole, step), update(resumed, step)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[key], two[key]) for key in one)
        for value, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
            assert torch.equal(value, other)


def test_the_reference_inputs_are_copies() -> None:
    part = build()
    data = torch.randn(100, 3)
    part.step(part.forward(data[:6]).square().mean(), Inputs(data[:6]))
    (kept,) = part.interventions["churn"].state_dict()["references"]
    assert torch.equal(kept, data[:6])
    assert kept.untyped_storage().nbytes() == 6 * 3 * 4


def test_no_strength_is_absence() -> None:
    treated, plain = build(coefficient=0.0), build(treated=False)
    for step in range(5):
        assert update(treated, step) == {}
        update(plain, step)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(value, other)


def test_dead_networks_and_single_examples() -> None:
    part = build(HeadSpec("policy", 3), relative=0.1, adapt_after_updates=1)
    with torch.no_grad():
        for value in part.network.parameters():
            value.zero_()
    for step in range(5):
        update(part, step, count=1)
    assert all(value.isfinite().all() for value in part.network.parameters())


def test_cross_entropy_of_values_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^churn\.distance=cross_entropy needs logits, and this part's outputs are q"):
        build(distance="cross_entropy")
    assert readout_of(build().network, "policy", "squared")[1] is squared_churn


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coefficient": -0.1}, r"churn\.coefficient=-0\.1 must be at least 0"),
        ({"relative": -0.1}, r"churn\.relative=-0\.1 must be at least 0"),
        ({"adapt_after_updates": 0}, r"churn\.adapt_after_updates=0 must be at least 1"),
        ({"average_updates": 0}, r"churn\.average_updates=0 must be at least 1"),
        ({"lag_updates": 0}, r"churn\.lag_updates=0 must be at least 1"),
        ({"distance": "l1"}, r"churn\.distance=l1 is unknown; choose from default, squared, cross_entropy"),
        ({"output": "both"}, r"churn\.output=both is unknown; choose from policy, value"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Churn(**settings)
