from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.continual_backprop import (
    UTILITIES,
    ContinualBackprop,
    incoming_magnitude,
    mean_deviation,
    outgoing_magnitude,
)
from plasticity.interventions.surgery.unit_statistics import lowest
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.optimizers.unit_adam import UnitAdam
from plasticity.updates.updater import Updater

SPECS = {
    "mlp": (MLPSpec(widths=[7, 6]), (3,)),
    "crelu": (MLPSpec(widths=[5, 4], activations=["crelu"]), (3,)),
    "conv": (ConvSpec(widths=[6], channels=[5, 4], pools=[1, 2]), (1, 8, 8)),
    "conv_crelu": (ConvSpec(widths=[5], channels=[4], activations=["crelu"]), (1, 4, 4)),
    "one_layer": (MLPSpec(widths=[4]), (3,)),
    "one_crelu": (MLPSpec(widths=[4], activations=["crelu"]), (3,)),
    "conv_to_head": (ConvSpec(widths=[], channels=[4]), (1, 5, 5)),
    "conv_crelu_to_head": (ConvSpec(widths=[], channels=[4], activations=["crelu"]), (1, 5, 5)),
    "conv_to_conv": (ConvSpec(widths=[], channels=[4, 3]), (1, 6, 6)),
    "conv_to_dense": (ConvSpec(widths=[5], channels=[4]), (1, 5, 5)),
}


def build(
    layout: str = "mlp", seed: int = 0, optimizer: str = "adam", rate: float = 0.02, head: str = "regression", **settings: Any
) -> Updater:
    spec, inputs = SPECS[layout]
    methods = {"cbp": lambda: ContinualBackprop(**settings)}
    chosen = OptimizerSettings(optimizer, rate, momentum=0.9 if optimizer == "sgd" else 0.0)
    outputs = HeadSpec("categorical", 2, 5, 0.0, 1.0) if head == "two_hot" else HeadSpec(head, 2)
    return PartBuilder(spec, inputs, torch.float32, chosen, methods, seed)("q", outputs)


def inputs_of(part: Updater, step: int) -> Tensor:
    return torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    return part.step((part.forward(inputs_of(part, step)) - 1.0).square().mean(), None)


def state_of(part: Updater) -> dict[str, Any]:
    return part.interventions["cbp"].state_dict()


def path_of(name: str) -> str:
    return "head" if name == "head" else f"torso.layers.{name}"


# Functions by hand


def test_outgoing_magnitude_by_hand() -> None:
    part = build("one_layer")
    with torch.no_grad():
        part.network.tensor("head.linear.weight").copy_(torch.tensor([[1.0, -2.0, 0.0, 4.0], [3.0, 2.0, 0.0, -6.0]]))
    assert outgoing_magnitude(part.network.tensor, part.network.units["dense_1"]).tolist() == [2.0, 2.0, 0.0, 5.0]


def test_outgoing_magnitude_of_crelu_counts_both_columns() -> None:
    part = build("one_crelu")
    with torch.no_grad():
        columns = [1.0, 2.0, 3.0, 4.0, -5.0, -6.0, 7.0, 0.0]
        part.network.tensor("head.linear.weight").copy_(torch.tensor([columns, columns]))
    assert outgoing_magnitude(part.network.tensor, part.network.units["dense_1"]).tolist() == [3.0, 4.0, 5.0, 2.0]


def test_outgoing_magnitude_of_a_flattened_convolution() -> None:
    # 4 channels of 3 x 3 positions: channel i owns the columns 9 i ... 9 i + 8.
    part = build("conv_to_head")
    with torch.no_grad():
        weight = part.network.tensor("head.linear.weight")
        for channel in range(4):
            weight[:, 9 * channel : 9 * channel + 9] = -float(channel)
    assert outgoing_magnitude(part.network.tensor, part.network.units["conv_1"]).tolist() == [0.0, 1.0, 2.0, 3.0]


def test_incoming_magnitude_by_hand() -> None:
    part = build("one_layer")
    with torch.no_grad():
        rows = [[1.0, -2.0, 3.0], [0.0, 0.0, 0.0], [3.0, 3.0, -3.0], [0.0, 0.0, 9.0]]
        part.network.tensor("torso.layers.dense_1.linear.weight").copy_(torch.tensor(rows))
    assert incoming_magnitude(part.network.tensor, part.network.units["dense_1"]).tolist() == [2.0, 0.0, 3.0, 3.0]


def test_mean_deviation_by_hand() -> None:
    post = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert mean_deviation(post, None, 1).tolist() == [2.0, 3.0]
    assert mean_deviation(post, torch.tensor([2.0, 1.0]), 1).tolist() == [1.0, 3.0]  # (1 + 1)/2, (3 + 3)/2
    assert mean_deviation(post, None, 2).tolist() == [2.5]  # the two columns are halves of one unit
    images = post.view(2, 2, 1, 1).expand(-1, -1, 3, 2)
    assert mean_deviation(images, torch.tensor([2.0, 1.0]), 1).tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("utility", "eligible", "count", "expected"),
    [
        ([3.0, 1.0, 2.0, 0.0], [1, 1, 1, 1], 0, [0, 0, 0, 0]),
        ([3.0, 1.0, 2.0, 0.0], [1, 1, 1, 1], 2, [0, 1, 0, 1]),
        ([3.0, 1.0, 2.0, 0.0], [1, 1, 1, 0], 2, [0, 1, 1, 0]),
        ([3.0, 1.0, 2.0, 0.0], [0, 0, 0, 0], 2, [0, 0, 0, 0]),
        ([3.0, 1.0, 2.0, 0.0], [1, 0, 0, 0], 3, [1, 0, 0, 0]),
        ([1.0, 1.0, 1.0, 1.0], [1, 1, 1, 1], 2, [1, 1, 0, 0]),  # ties go to the first
        ([1.0, 1.0, 1.0, 1.0], [0, 1, 1, 1], 4, [0, 1, 1, 1]),
    ],
)
def test_lowest_by_hand(utility: list[float], eligible: list[int], count: int, expected: list[int]) -> None:
    chosen = lowest(torch.tensor(utility), torch.tensor(eligible, dtype=torch.bool), torch.tensor(float(count)))
    assert chosen.int().tolist() == expected


# Averages by hand


def hand_part(**settings: Any) -> Updater:
    """Two units that read one input with weights 1 and -2 and bias 0, and an output with weights 3 and -1; nothing trains."""
    methods = {"cbp": lambda: ContinualBackprop(replacement_rate=0.0, decay=0.5, **settings)}
    spec = MLPSpec(widths=[2], activations=["leaky_relu"])
    part = PartBuilder(spec, (1,), torch.float32, OptimizerSettings("sgd", 0.0), methods)("q", HeadSpec("q", 1))
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.linear.weight").copy_(torch.tensor([[1.0], [-2.0]]))
        part.network.tensor("torso.layers.dense_1.linear.bias").zero_()
        part.network.tensor("head.linear.weight").copy_(torch.tensor([[3.0, -1.0]]))
    return part


@pytest.mark.parametrize(
    ("utility", "first", "second"),
    [
        # Inputs 1, -100: h0 = 1, -1 and h1 = -0.02, 200. Then 5, 5: h0 = 5, 5 and h1 = -0.1, -0.1 (slope 0.01).
        # contribution: 3 * 1 = 3 and 1 * 100.01; halves 1.5, 50.005; then 1.5/2 + 15/2 = 8.25, 50.005/2 + 0.1/2.
        ("contribution", [1.5, 50.005], [8.25, 25.0525]),
        # Means 0, 99.99 (halves, corrected by 1/2): deviations 1 and 100.01. Second: mean 0/2 + 5/2 = 2.5, corrected by 3/4:
        # 10/3, deviation 5/3, times 3 = 5; (49.995/2 - 0.1/2) / (3/4) = 33.2633, deviation 33.3633.
        ("zero_contribution", [1.5, 50.005], [3.25, 25.0025 + 33.36333 / 2]),
        # Divided by |w_in|: 1 and 2.
        ("adaptable_contribution", [1.5, 25.0025], [3.25, 12.50125 + 33.36333 / 4]),
    ],
)
def test_utility_by_hand(utility: str, first: list[float], second: list[float]) -> None:
    part = hand_part(utility=utility)
    for inputs, expected in (([[1.0], [-100.0]], first), ([[5.0], [5.0]], second)):
        part.step(part.forward(torch.tensor(inputs)).sum(), None)
        assert state_of(part)["dense_1/utility"].tolist() == pytest.approx(expected, rel=1e-5)
    assert state_of(part)["dense_1/age"].tolist() == [2.0, 2.0]
    assert state_of(part)["dense_1/mean"].tolist() == pytest.approx([2.5, (49.995 - 0.1) / 2], rel=1e-5)


# Maturity and the carried fraction


def test_carried_fraction_by_hand() -> None:
    # Four mature units at rate 0.3: 1.2 per update. 1.2 2.4 3.6 4.8 6.0 -> 1 1 1 1 2, and again. Maturity 0 makes a unit
    # eligible at its first update, so there are always four.
    part = build("one_layer", replacement_rate=0.3, maturity_updates=0)
    counts = [int(update(part, step)["cbp/units_reset"]) for step in range(10)]
    assert counts == [1, 1, 1, 1, 2, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.05, 0.025])
def test_a_unit_comes_when_the_fractions_make_one(rate: float) -> None:
    # Four units: 1 / (4 rate) updates for each, despite the rounding of the sum.
    part = build("one_layer", rate=0.0, replacement_rate=rate, maturity_updates=0)
    counts = [int(update(part, step)["cbp/units_reset"]) for step in range(1, 41)]
    exact = [round(4 * rate * 1000) * step // 1000 for step in range(41)]
    assert counts == [after - before for before, after in pairwise(exact)]


@pytest.mark.parametrize("maturity", [0, 1, 3])
def test_units_are_safe_until_they_are_older_than_the_maturity(maturity: int) -> None:
    # At rate 1 everybody goes at age maturity + 1, then is as old again maturity + 1 updates later.
    part = build("one_layer", replacement_rate=1.0, maturity_updates=maturity)
    counts = [int(update(part, step)["cbp/units_reset"]) for step in range(1, 10)]
    assert counts == [4 if step % (maturity + 1) == 0 else 0 for step in range(1, 10)]


def test_the_fraction_of_immature_units_is_not_carried() -> None:
    part = build("one_layer", replacement_rate=0.1, maturity_updates=5)
    for step in range(5):
        update(part, step)
    assert state_of(part)["carried"] == [0.0]
    update(part, 5)
    assert state_of(part)["carried"] == pytest.approx([0.4])


def test_each_layer_carries_its_own_fraction() -> None:
    # Seven and six units at rate 0.1: 0.7 and 0.6 per update: 0 1 1 0 1 and 0 1 0 1 1 (sums 0.7 1.4 2.1 2.8 3.5, 0.6 1.2 1.8
    # 2.4 3.0).
    part = build("mlp", replacement_rate=0.1, maturity_updates=0)
    counts = []
    for step in range(5):
        update(part, step)
        young = [int((state_of(part)[f"dense_{index}/age"] == 0).sum()) for index in (1, 2)]
        counts.append(young)
    assert counts == [[0, 0], [1, 1], [1, 0], [0, 1], [1, 1]]


def test_a_replaced_unit_forgets_its_past() -> None:
    part = build("crelu", replacement_rate=0.2, maturity_updates=3)
    for step in range(4):
        update(part, step)
    state = state_of(part)
    replaced = state["dense_1/age"] == 0
    assert 0 < int(replaced.sum()) < 5
    assert not state["dense_1/utility"][replaced].any()
    assert not state["dense_1/mean"].view(2, 5)[:, replaced].any()
    assert (state["dense_1/age"][~replaced] == 4).all()
    assert (state["dense_1/utility"][~replaced] > 0).all()


# Against an implementation with loops


class Plain:
    """The same network as functions of a dict of tensors, Adam with a count per entry, continual backprop unit by unit."""

    def __init__(self, part: Updater, rate: float, maturity: int, decay: float, utility: str, policy: str, move: bool) -> None:
        self.part, self.replacement, self.maturity, self.decay = part, rate, maturity, decay
        self.kind, self.policy, self.move = utility, policy, move
        self.values = {name: value.detach().clone().requires_grad_() for name, value in part.network.named_parameters()}
        self.first = {name: torch.zeros_like(value) for name, value in self.values.items()}
        self.second = {name: torch.zeros_like(value) for name, value in self.values.items()}
        self.count = {name: torch.zeros_like(value) for name, value in self.values.items()}
        self.names = list(part.network.units.names)
        self.pool = dict.fromkeys(self.names, 1) | ({"conv_2": 2} if getattr(part.network.spec, "pools", []) == [1, 2] else {})
        self.halves = 2 if part.network.spec.activations == ["crelu"] else 1
        self.units = {name: self.weight(name).shape[0] for name in self.names}
        self.utility = {name: [0.0] * self.units[name] for name in self.names}
        self.mean = {name: [0.0] * self.units[name] * self.halves for name in self.names}
        self.age = {name: [0] * self.units[name] for name in self.names}
        self.carried = dict.fromkeys(self.names, 0.0)
        self.replaced = 0

    def weight(self, name: str) -> Tensor:
        return self.values[f"{path_of(name)}.linear.weight"]

    def bias(self, name: str) -> Tensor:
        return self.values[f"{path_of(name)}.linear.bias"]

    def reader(self, name: str) -> str:
        return [*self.names, "head"][self.names.index(name) + 1]

    def forward(self, x: Tensor) -> Tensor:
        self.post: dict[str, Tensor] = {}
        for name in self.names:
            weight, bias = self.weight(name), self.bias(name)
            if weight.ndim == 2:
                x = x.flatten(1)
            z = functional.conv2d(x, weight, bias) if weight.ndim == 4 else functional.linear(x, weight, bias)
            x = torch.cat([z.relu(), (-z).relu()], 1) if self.halves == 2 else z.relu()
            self.post[name] = x.detach()
            x = functional.max_pool2d(x, self.pool[name]) if self.pool[name] > 1 else x
        return functional.linear(x.flatten(1), self.weight("head"), self.bias("head"))

    def columns(self, name: str, channel: int) -> list[int]:
        positions = self.weight(self.reader(name)).shape[1] // (self.units[name] * self.halves)
        return [channel * positions + place for place in range(positions)]

    def channels(self, name: str, unit: int) -> list[int]:
        return [half * self.units[name] + unit for half in range(self.halves)]

    def update(self, x: Tensor) -> None:
        loss = (self.forward(x) - 1.0).square().mean()
        gradients = torch.autograd.grad(loss, list(self.values.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(self.values.items(), gradients, strict=True):
                self.count[name] += 1
                self.first[name] = 0.9 * self.first[name] + 0.1 * gradient
                self.second[name] = 0.999 * self.second[name] + 0.001 * gradient**2
                first = self.first[name] / (1 - 0.9 ** self.count[name])
                second = self.second[name] / (1 - 0.999 ** self.count[name])
                value -= 0.02 * first / (second.sqrt() + 1e-8)
            chosen = {name: self.test(name) for name in self.names}
            for name, units in chosen.items():
                for unit in units:
                    self.hand_over(name, unit)
            for name, units in chosen.items():
                for unit in units:
                    self.renew(name, unit)
            for name, units in chosen.items():
                for unit in units:
                    self.silence(name, unit)
                    self.utility[name][unit], self.age[name][unit] = 0.0, 0
                    for channel in self.channels(name, unit):
                        self.mean[name][channel] = 0.0

    def corrected(self, name: str, channel: int) -> float:
        return self.mean[name][channel] / (1 - self.decay ** self.age[name][channel % self.units[name]])

    def test(self, name: str) -> list[int]:
        post, reader = self.post[name], self.weight(self.reader(name))
        for unit in range(self.units[name]):
            self.age[name][unit] += 1
            deviations, outgoing = [], []
            for channel in self.channels(name, unit):
                values = [float(value) for value in post[:, channel].flatten()]
                now = sum(values) / len(values)
                self.mean[name][channel] = self.decay * self.mean[name][channel] + (1 - self.decay) * now
                centre = 0.0 if self.kind == "contribution" else self.corrected(name, channel)
                deviations.append(sum(abs(value - centre) for value in values) / len(values))
                outgoing += [abs(float(value)) for column in self.columns(name, channel) for value in reader[:, column].flatten()]
            contribution = sum(outgoing) / len(outgoing) * sum(deviations) / len(deviations)
            if self.kind == "adaptable_contribution":
                incoming = [abs(float(value)) for value in self.weight(name)[unit].flatten()]
                contribution /= sum(incoming) / len(incoming)
            self.utility[name][unit] = self.decay * self.utility[name][unit] + (1 - self.decay) * contribution
        eligible = [unit for unit in range(self.units[name]) if self.age[name][unit] > self.maturity]
        self.carried[name] += self.replacement * len(eligible)
        count = int(self.carried[name] + 1e-9)
        self.carried[name] -= count
        self.replaced += count
        ranked = sorted(eligible, key=lambda unit: self.utility[name][unit] / (1 - self.decay ** self.age[name][unit]))
        return ranked[:count]

    def hand_over(self, name: str, unit: int) -> None:
        weight, bias = self.weight(self.reader(name)), self.bias(self.reader(name))
        for channel in self.channels(name, unit) if self.move else []:
            for column in self.columns(name, channel):
                for output in range(weight.shape[0]):
                    bias[output] += weight[output, column].sum() * self.corrected(name, channel)

    def renew(self, name: str, unit: int) -> None:
        path = f"{path_of(name)}.linear.weight"
        fresh = self.part.network.tensor(path)[unit].detach().clone()
        for earlier in self.names[: self.names.index(name)]:
            if self.reader(earlier) == name:
                # Columns of units replaced with it end as 0; what was drawn for them is no longer visible.
                assert fresh.abs().max() <= self.part.network.initialisers[path].scale
        assert not torch.equal(fresh, self.weight(name)[unit])
        self.weight(name)[unit] = fresh
        self.bias(name)[unit] = 0.0
        self.clear(path, (unit,))
        self.clear(f"{path_of(name)}.linear.bias", (unit,))

    def silence(self, name: str, unit: int) -> None:
        for channel in self.channels(name, unit):
            for column in self.columns(name, channel):
                self.weight(self.reader(name))[:, column] = 0.0
                self.clear(f"{path_of(self.reader(name))}.linear.weight", (slice(None), column))

    def clear(self, name: str, entries: tuple[Any, ...]) -> None:
        if self.policy != "keep":
            self.first[name][entries] = 0.0
            self.second[name][entries] = 0.0
        if self.policy == "restart":
            self.count[name][entries] = 0.0


def assert_equal_runs(layout: str, utility: str, policy: str, move: bool, rate: float = 0.15, maturity: int = 2) -> None:
    part = build(
        layout,
        replacement_rate=rate,
        maturity_updates=maturity,
        decay=0.9,
        utility=utility,
        optimizer_state=policy,
        bias_compensation=move,
    )
    plain, replaced = Plain(part, rate, maturity, 0.9, utility, policy, move), 0
    for step in range(10):
        inputs = inputs_of(part, step)
        replaced += int(update(part, step)["cbp/units_reset"])
        plain.update(inputs)
        assert replaced == plain.replaced
        state = state_of(part)
        for name in plain.names:
            assert state[f"{name}/age"].tolist() == plain.age[name], f"{name} at {step}"
            assert state[f"{name}/utility"].tolist() == pytest.approx(plain.utility[name], rel=1e-3, abs=1e-6)
            assert state[f"{name}/mean"].tolist() == pytest.approx(plain.mean[name], rel=1e-3, abs=1e-6)
        assert state["carried"] == pytest.approx(list(plain.carried.values()), abs=1e-6)
        for name, value in plain.values.items():
            torch.testing.assert_close(
                part.network.tensor(name), value, rtol=1e-3, atol=1e-5, msg=f"{name} at {step}", check_stride=False
            )
            moments = part.optimizer.state[part.network.tensor(name)]
            torch.testing.assert_close(moments["exp_avg"], plain.first[name], rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(moments["exp_avg_sq"], plain.second[name], rtol=1e-3, atol=1e-7)
    assert replaced >= 7


@pytest.mark.parametrize("layout", ["mlp", "crelu", "conv", "conv_crelu"])
@pytest.mark.parametrize("utility", UTILITIES)
def test_against_loops(layout: str, utility: str) -> None:
    assert_equal_runs(layout, utility, "restart", move=True)


@pytest.mark.parametrize(("policy", "move"), [("keep", True), ("zero", True), ("restart", False)])
@pytest.mark.parametrize("layout", ["mlp", "conv_crelu"])
def test_other_policies_against_loops(layout: str, policy: str, move: bool) -> None:
    assert_equal_runs(layout, "contribution", policy, move)


def test_many_replacements_in_neighbouring_layers_against_loops() -> None:
    assert_equal_runs("mlp", "contribution", "restart", move=True, rate=0.6, maturity=0)


# Bias compensation

READERS = {
    "one_layer": ("head", (0, 1, 2, 3)),
    "one_crelu": ("head", (0, 1, 2, 3)),
    "conv_to_head": ("head", (0, 1, 2, 3)),
    "conv_crelu_to_head": ("head", (0, 1, 2, 3)),
    "conv_to_conv": ("conv_2", (0, 1, 2, 3)),
    "conv_to_dense": ("dense_1", (0, 1, 2, 3)),
}


def pre_activations(part: Updater, reader: str, inputs: Tensor) -> Tensor:
    """What the reader of the first layer computes."""
    with part.network.taps.record():
        outputs = part.forward(inputs).detach()
    return outputs.clone() if reader == "head" else part.network.taps.pre[reader].clone()


def constant_first_layer(layout: str, move: bool, head: str = "regression", decay: float = 0.9) -> Updater:
    """Units of the first layer have constant activations 0.5, 1, 1.5, 2; nothing trains; half of them are replaced each time."""
    part = build(
        layout,
        optimizer="sgd",
        rate=0.0,
        head=head,
        replacement_rate=0.5,
        maturity_updates=3,
        decay=decay,
        bias_compensation=move,
    )
    first = path_of(part.network.units.names[0])
    with torch.no_grad():
        part.network.tensor(f"{first}.linear.weight").zero_()
        part.network.tensor(f"{first}.linear.bias").copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    method = part.interventions["cbp"]
    assert isinstance(method, ContinualBackprop)
    method._rates[1:] = [0.0] * (len(method._rates) - 1)  # units of the first layer alone
    return part


@pytest.mark.parametrize("head", ["regression", "two_hot"])
@pytest.mark.parametrize("layout", list(READERS))
def test_compensation_keeps_what_the_reader_computes(layout: str, head: str) -> None:
    part = constant_first_layer(layout, move=True, head=head)
    reader = READERS[layout][0]
    before = pre_activations(part, reader, inputs_of(part, 0))
    for step in range(4):
        logs = update(part, step)
    assert int(logs["cbp/units_reset"]) == 2
    after = pre_activations(part, reader, inputs_of(part, 0))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", list(READERS))
def test_without_compensation_no_bias_moves(layout: str) -> None:
    part = constant_first_layer(layout, move=False)
    reader = READERS[layout][0]
    name = f"{path_of(reader)}.linear.bias"
    bias, before = part.network.tensor(name).detach().clone(), pre_activations(part, reader, inputs_of(part, 0))
    for step in range(4):
        logs = update(part, step)
    assert int(logs["cbp/units_reset"]) == 2
    assert torch.equal(part.network.tensor(name), bias)
    assert (pre_activations(part, reader, inputs_of(part, 0)) - before).abs().max() > 0.01


def test_compensation_by_hand() -> None:
    # Activations 0.5 and 1 are replaced (smallest contribution with equal outgoing weights): 3 * 0.5 + 3 * 1 = 4.5.
    part = constant_first_layer("one_layer", move=True)
    with torch.no_grad():
        part.network.tensor("head.linear.weight").fill_(3.0)
        part.network.tensor("head.linear.bias").zero_()
    for step in range(4):
        update(part, step)
    assert part.network.tensor("head.linear.weight").tolist() == [[0.0, 0.0, 3.0, 3.0]] * 2
    assert part.network.tensor("head.linear.bias").tolist() == pytest.approx([4.5, 4.5], rel=1e-5)


def test_compensation_keeps_the_mean_of_what_a_dense_reader_computes() -> None:
    # With decay 0 the mean is that of the batch just seen.
    part = build("one_layer", optimizer="sgd", rate=0.0, replacement_rate=0.5, maturity_updates=0, decay=0.0)
    inputs = inputs_of(part, 3)
    before = pre_activations(part, "head", inputs)
    logs = update(part, 3)
    assert int(logs["cbp/units_reset"]) == 2
    after = pre_activations(part, "head", inputs)
    torch.testing.assert_close(after.mean(0), before.mean(0), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(after, before, atol=1e-3)


# Replacement


def test_zero_rate_measures_and_changes_nothing() -> None:
    part = build("conv", rate=0.0, optimizer="sgd", replacement_rate=0.0, maturity_updates=0)
    before = {name: value.clone() for name, value in part.network.state_dict().items()}
    for step in range(5):
        assert update(part, step) == {"cbp/units_reset": 0.0}
    assert all(torch.equal(value, before[name]) for name, value in part.network.state_dict().items())
    assert (state_of(part)["conv_1/age"] == 5).all()
    assert bool(state_of(part)["conv_1/utility"].any())


def test_the_least_useful_unit_goes() -> None:
    part = build("one_layer", rate=0.0, optimizer="sgd", replacement_rate=0.25, maturity_updates=1)
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.linear.weight").zero_()
        part.network.tensor("torso.layers.dense_1.linear.bias").copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        # Contributions 1 * 8 = 8, 2 * 1 = 2, 3 * 1 = 3, 4 * 0.25 = 1.
        part.network.tensor("head.linear.weight").copy_(torch.tensor([[8.0, 1.0, -1.0, 0.25]] * 2))
    assert int(update(part)["cbp/units_reset"]) == 0
    assert int(update(part)["cbp/units_reset"]) == 1
    assert (part.network.tensor("head.linear.weight") == 0).all(0).tolist() == [False, False, False, True]
    assert part.network.tensor("torso.layers.dense_1.linear.weight").any(1).tolist() == [False, False, False, True]
    assert part.network.tensor("torso.layers.dense_1.linear.bias").tolist() == [1.0, 2.0, 3.0, 0.0]


def test_restart_gives_replaced_entries_the_step_of_a_fresh_adam() -> None:
    part = build("one_layer", replacement_rate=0.5, maturity_updates=9)
    for step in range(10):
        update(part, step)
    replaced = state_of(part)["dense_1/age"] == 0
    assert int(replaced.sum()) == 2
    assert isinstance(part.optimizer, UnitAdam)
    head = part.network.tensor("head.linear.weight")
    assert (part.optimizer.restarted_at(head) == 10).all(0).tolist() == replaced.tolist()
    before = head.detach().clone()
    update(part, 11)
    assert head.grad is not None
    columns = head.grad[:, replaced]
    large = columns.abs() > 1e-5
    assert bool(large.any())
    moved = (before - head.detach())[:, replaced]
    torch.testing.assert_close(moved[large], 0.02 * columns.sign()[large], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("policy", ["keep", "zero", "restart"])
def test_momentum_of_replaced_units(policy: str) -> None:
    part = build("one_layer", optimizer="sgd", replacement_rate=0.5, maturity_updates=4, optimizer_state=policy)
    for step in range(5):
        update(part, step)
    replaced = state_of(part)["dense_1/age"] == 0
    assert int(replaced.sum()) == 2
    momentum = part.optimizer.state[part.network.tensor("head.linear.weight")]["momentum_buffer"]
    assert bool(momentum[:, ~replaced].any())
    assert bool(momentum[:, replaced].any()) == (policy == "keep")


def test_no_nan_when_every_incoming_weight_of_a_unit_is_zero() -> None:
    part = build("one_layer", rate=0.0, utility="adaptable_contribution", replacement_rate=0.5, maturity_updates=0)
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.linear.weight")[1] = 0.0
        part.network.tensor("torso.layers.dense_1.linear.bias")[1] = 0.0
    for step in range(3):
        update(part, step)
    assert bool(state_of(part)["dense_1/utility"].isfinite().all())


def test_draws_are_private_and_new_each_time() -> None:
    def draws(seed: int) -> list[Tensor]:
        part = build("one_layer", seed=seed, replacement_rate=1.0, maturity_updates=0)
        drawn = []
        for _ in range(3):
            update(part)
            drawn.append(part.network.tensor("torso.layers.dense_1.linear.weight").detach().clone())
        return drawn

    torch.manual_seed(1)
    one = draws(0)
    torch.manual_seed(2)
    two, other = draws(0), draws(1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[1], one[2])
    assert not torch.equal(one[0], other[0])


def test_a_task_switch_does_nothing() -> None:
    part = build(replacement_rate=1.0, maturity_updates=0)
    before = {name: value.clone() for name, value in part.network.state_dict().items()}
    assert part.task_switch(1) == {}
    assert all(torch.equal(value, before[name]) for name, value in part.network.state_dict().items())


# Refusals


def test_a_linear_model_is_refused() -> None:
    part = PartBuilder(MLPSpec(widths=[]), (3,), torch.float32, OptimizerSettings(), {"cbp": ContinualBackprop})
    with pytest.raises(ValueError, match="intervention continual_backprop resets hidden units, and this network has none"):
        part("q", HeadSpec("q", 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replacement_rate": -0.1}, r"continual_backprop\.replacement_rate=-0\.1 must be between 0 and 1"),
        ({"replacement_rate": 1.5}, r"continual_backprop\.replacement_rate=1\.5 must be between 0 and 1"),
        ({"maturity_updates": -1}, r"continual_backprop\.maturity_updates=-1 must be at least 0"),
        ({"decay": 1.0}, r"continual_backprop\.decay=1\.0"),
        (
            {"utility": "weight"},
            r"utility=weight is unknown; choose from contribution, zero_contribution, adaptable_contribution",
        ),
        ({"optimizer_state": "fresh"}, r"optimizer_state=fresh is unknown; choose from keep, zero, restart"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContinualBackprop(**settings)
