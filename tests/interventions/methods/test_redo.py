from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.redo import ReDo, dormant
from plasticity.interventions.surgery.unit_statistics import mean_activity
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
    "batch_norm": (MLPSpec(widths=[7, 6], normalisation=["batch"]), (3,)),
}


def build(
    layout: str = "mlp", seed: int = 0, optimizer: OptimizerSettings | None = None, head: str = "regression", **settings: Any
) -> Updater:
    spec, inputs = SPECS[layout]
    methods = {"redo": lambda: ReDo(**settings)}
    chosen = optimizer or OptimizerSettings("adam", 0.02)
    outputs = HeadSpec("categorical", 2, 5, 0.0, 1.0) if head == "two_hot" else HeadSpec(head, 2)
    return PartBuilder(spec, inputs, torch.float32, chosen, methods, seed)("q", outputs)


def inputs_of(part: Updater, step: int) -> Tensor:
    return torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    return part.step((part.forward(inputs_of(part, step)) - 1.0).square().mean(), None)


def linear_part(weights: list[float], **settings: Any) -> Updater:
    """Dense units with incoming weight ``weights`` on one input of 1 and bias 0, so h = max(0, weight); nothing trains."""
    spec = MLPSpec(widths=[len(weights)])
    methods = {"redo": lambda: ReDo(**settings)}
    part = PartBuilder(spec, (1,), torch.float32, OptimizerSettings("sgd", 0.0), methods)("q", HeadSpec("q", 2))
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.linear.weight").copy_(torch.tensor(weights).view(-1, 1))
        part.network.tensor("torso.layers.dense_1.linear.bias").zero_()
    return part


def reset_of(part: Updater) -> list[bool]:
    """Which units have no outgoing weight."""
    return (part.network.tensor("head.linear.weight") == 0).all(0).tolist()


# Functions by hand


def test_mean_activity_by_hand() -> None:
    # Unit 0: (|1| + |-3|) / 2 = 2; unit 1: (0 + 1) / 2.
    assert mean_activity(torch.tensor([[1.0, 0.0], [-3.0, 1.0]]), 1).tolist() == [2.0, 0.5]


def test_mean_activity_of_crelu_averages_the_halves() -> None:
    # Units 0 and 1; columns relu(z0), relu(z1), relu(-z0), relu(-z1): means 1, 0, 3, 2 -> (1 + 3) / 2, (0 + 2) / 2.
    assert mean_activity(torch.tensor([[2.0, 0.0, 0.0, 2.0], [0.0, 0.0, 6.0, 2.0]]), 2).tolist() == [2.0, 1.0]


def test_mean_activity_of_a_convolution_averages_positions() -> None:
    # Channel 0: |1| + |-1| + 2 + 4 over 4; channel 1: 0.
    post = torch.tensor([[[[1.0, -1.0]], [[0.0, 0.0]]], [[[2.0, 4.0]], [[0.0, 0.0]]]])
    assert mean_activity(post, 1).tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    ("activity", "threshold", "expected"),
    [
        ([0.0, 1.0, 2.0, 5.0], 0.0, [True, False, False, False]),
        ([0.0, 1.0, 2.0, 5.0], 0.5, [True, True, False, False]),  # mean 2: 0.5 * 2 = 1, exactly the second unit's
        ([0.0, 1.0, 2.0, 5.0], 0.499, [True, False, False, False]),
        ([0.0, 1.0, 2.0, 5.0], 1.0, [True, True, True, False]),
        ([0.0, 0.0, 0.0], 0.0, [True, True, True]),  # a silent layer is dormant altogether
        ([0.0, 0.0, 0.0], 0.1, [True, True, True]),
        ([1.0, 1.0], 0.999, [False, False]),
        ([7.0], 0.5, [False]),
    ],
)
def test_dormant_by_hand(activity: list[float], threshold: float, expected: list[bool]) -> None:
    assert dormant(torch.tensor(activity), threshold).tolist() == expected


# Which units, when


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.0, [0]), (0.49, [0]), (0.5, [0, 1]), (1.0, [0, 1, 2]), (2.5, [0, 1, 2, 3])]
)
def test_units_reset_by_hand(threshold: float, expected: list[int]) -> None:
    # Activities 0, 1, 2, 5 (weights -1, 1, 2, 5 on an input of 1); mean 2.
    part = linear_part([-1.0, 1.0, 2.0, 5.0], threshold=threshold, every_updates=1)
    logs = part.step(part.forward(torch.ones(3, 1)).sum(), None)
    assert reset_of(part) == [unit in expected for unit in range(4)]
    assert int(logs["redo/units_reset"]) == len(expected)
    weights = part.network.tensor("torso.layers.dense_1.linear.weight").view(-1).tolist()
    for unit, old in enumerate([-1.0, 1.0, 2.0, 5.0]):
        assert (weights[unit] != old) == (unit in expected)


def test_average_over_updates_by_hand() -> None:
    # h = max(0, w x) for w = 1, 1, -1 and x = 4, 4, 2, -8 in updates 1 to 4; the last three count: units 0 and 1 have
    # 4 + 2 + 0 = 6, unit 2 has 0 + 0 + 8 = 8; mean 20/3. Threshold 0.91: 6.07 resets units 0 and 1. The last batch alone
    # (0, 0, 8) would reset them at 0 as well, and with all four (10, 10, 8) unit 2 would go.
    part = linear_part([1.0, 1.0, -1.0], threshold=0.91, every_updates=4, average_updates=3)
    for step, x in enumerate([4.0, 4.0, 2.0, -8.0], start=1):
        logs = part.step(part.forward(torch.full((2, 1), x)).sum(), None)
        assert bool(logs) == (step == 4)
    assert reset_of(part) == [True, True, False]
    assert not part.interventions["redo"].state["dense_1"].any()


@pytest.mark.parametrize(("average", "expected"), [(1, [True, False]), (2, [False, True]), (3, [False, True])])
def test_average_counts_the_updates_before_the_reset(average: int, expected: list[bool]) -> None:
    # w = 1, -1: x = -2, 6, -3 gives unit 0: 0, 6, 0 and unit 1: 2, 0, 3. Last one: 0 and 3; last two: 6 and 3; all: 6 and 5.
    # Threshold 0.95: means 1.5, 4.5, 5.5.
    part = linear_part([1.0, -1.0], threshold=0.95, every_updates=3, average_updates=average)
    for x in (-2.0, 6.0, -3.0):
        part.step(part.forward(torch.full((2, 1), x)).sum(), None)
    assert reset_of(part) == expected


def test_sums_start_again_after_a_reset() -> None:
    # First period: unit 1 silent. Second period: unit 0 silent; what unit 0 did before must not save it.
    part = linear_part([1.0, -1.0], threshold=0.0, every_updates=2, average_updates=2)
    head = part.network.tensor("head.linear.weight")
    for x, expected in ((100.0, [False, True]), (-1.0, [True, False])):
        with torch.no_grad():
            head.fill_(1.0)
            part.network.tensor("torso.layers.dense_1.linear.weight").copy_(torch.tensor([[1.0], [-1.0]]))
            part.network.tensor("torso.layers.dense_1.linear.bias").zero_()
        for _ in range(2):
            part.step(part.forward(torch.full((2, 1), x)).sum() * 0.0, None)
        assert reset_of(part) == expected


@pytest.mark.parametrize(
    ("every", "average", "expected"), [(0, 1, []), (1, 1, list(range(1, 10))), (4, 1, [4, 8]), (3, 3, [3, 6, 9])]
)
def test_period(every: int, average: int, expected: list[int]) -> None:
    part = build(every_updates=every, average_updates=average)
    assert [step for step in range(1, 10) if update(part, step)] == expected


def test_task_switches_do_nothing() -> None:
    part = build(threshold=10.0, every_updates=1)
    before = deepcopy(part.network.state_dict())
    assert part.task_switch(1) == {}
    assert all(torch.equal(value, before[name]) for name, value in part.network.state_dict().items())


# Against an implementation with loops


class Plain:
    """The same network as functions of a dict of tensors, torch's Adam, and ReDo unit by unit."""

    def __init__(self, part: Updater, threshold: float, every: int, average: int, policy: str = "zero") -> None:
        self.part, self.threshold, self.every, self.average, self.policy = part, threshold, every, average, policy
        self.values = {name: torch.nn.Parameter(value.detach().clone()) for name, value in part.network.named_parameters()}
        group = part.optimizer.param_groups[0]
        self.optimizer = torch.optim.Adam(self.values.values(), lr=group["lr"])
        self.names = list(part.network.units.names)
        pools = getattr(part.network.spec, "pools", [1])  # torsos without convolutions have none
        self.pools = dict(zip(self.names, [*pools * len(self.names)][: len(self.names)], strict=True))
        if len(pools) > 1:
            self.pools = dict(zip(self.names, [*pools, 1], strict=True))
        self.crelu = part.network.spec.activations == ["crelu"]
        self.sums: dict[str, list[float]] = {name: [] for name in self.names}
        self.resets = 0

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        path = "head" if name == "head" else f"torso.layers.{name}"
        return self.values[f"{path}.linear.weight"], self.values[f"{path}.linear.bias"]

    def forward(self, x: Tensor) -> Tensor:
        self.post: dict[str, Tensor] = {}
        for name in self.names:
            weight, bias = self.layer(name)
            if weight.ndim == 2:
                x = x.flatten(1)
            z = functional.conv2d(x, weight, bias) if weight.ndim == 4 else functional.linear(x, weight, bias)
            x = torch.cat([z.relu(), (-z).relu()], 1) if self.crelu else z.relu()
            self.post[name] = x.detach()
            if weight.ndim == 4 and self.pools[name] > 1:
                x = functional.max_pool2d(x, self.pools[name])
        return functional.linear(x.flatten(1), *self.layer("head"))

    def columns(self, name: str, unit: int) -> list[int]:
        """Columns of the next weight that read one unit."""
        weight, _ = self.layer(name)
        reader, _ = self.layer(self.next_of(name))
        units, halves = weight.shape[0], 2 if self.crelu else 1
        positions = reader.shape[1] // (units * halves)
        return [(half * units + unit) * positions + place for half in range(halves) for place in range(positions)]

    def next_of(self, name: str) -> str:
        return [*self.names, "head"][self.names.index(name) + 1]

    def update(self, x: Tensor, step: int) -> None:
        self.optimizer.zero_grad()
        (self.forward(x) - 1.0).square().mean().backward()
        self.optimizer.step()
        if (self.every - step % self.every) % self.every >= self.average:
            return
        for name in self.names:
            post, units = self.post[name], self.layer(name)[0].shape[0]
            activity = []
            for unit in range(units):
                channels = [unit, units + unit] if self.crelu else [unit]
                values = [abs(float(v)) for channel in channels for v in post[:, channel].flatten()]
                activity.append(sum(values) / len(values))
            self.sums[name] = [a + b for a, b in zip(self.sums[name] or [0.0] * units, activity, strict=True)]
        if step % self.every == 0:
            self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        chosen = {}
        for name in self.names:
            sums, self.sums[name] = self.sums[name], []
            mean = sum(sums) / len(sums)
            chosen[name] = [unit for unit, value in enumerate(sums) if value <= self.threshold * mean]
        for name, units in chosen.items():
            self.resets += len(units)
            for tensor, path in zip(self.layer(name), ("weight", "bias"), strict=True):
                for unit in units:
                    # Fresh values are random: take them over after checking that they are drawn and within the bound.
                    now = self.part.network.tensor(f"torso.layers.{name}.linear.{path}")[unit]
                    assert not torch.equal(now, tensor[unit])
                    assert now.abs().max() <= self.part.network.initialisers[f"torso.layers.{name}.linear.weight"].scale
                    tensor[unit] = now
                    self.clear(tensor, (unit,))
        for name, units in chosen.items():
            reader, _ = self.layer(self.next_of(name))
            for unit in units:
                for column in self.columns(name, unit):
                    reader[:, column] = 0.0
                    self.clear(reader, (slice(None), column))

    def clear(self, tensor: Tensor, entries: tuple[Any, ...]) -> None:
        if self.policy == "zero":
            for moment in ("exp_avg", "exp_avg_sq"):
                self.optimizer.state[tensor][moment][entries] = 0.0


@pytest.mark.parametrize("policy", ["zero", "keep"])
@pytest.mark.parametrize("layout", ["mlp", "crelu", "conv", "conv_crelu"])
@pytest.mark.parametrize(("every", "average"), [(1, 1), (3, 1), (4, 3)])
def test_against_loops(layout: str, every: int, average: int, policy: str) -> None:
    part = build(layout, threshold=0.9, every_updates=every, average_updates=average, optimizer_state=policy)
    plain = Plain(part, 0.9, every, average, policy)
    resets = 0
    for step in range(1, 9):
        inputs = inputs_of(part, step)
        logs = update(part, step)
        plain.update(inputs, step)
        resets += int(logs.get("redo/units_reset", 0))
        assert resets == plain.resets
        for name, value in plain.values.items():
            torch.testing.assert_close(part.network.tensor(name), value, rtol=1e-4, atol=1e-6, msg=f"{name} at {step}")
            state, other = part.optimizer.state[part.network.tensor(name)], plain.optimizer.state[value]
            for moment in ("exp_avg", "exp_avg_sq"):
                torch.testing.assert_close(
                    state[moment], other[moment], rtol=1e-4, atol=1e-7, msg=f"{moment} of {name} at {step}"
                )
    assert resets > 3


# What a reset leaves behind


@pytest.mark.parametrize("head", ["regression", "two_hot", "q"])
@pytest.mark.parametrize("layout", list(SPECS))
def test_resetting_silent_units_keeps_the_function(layout: str, head: str) -> None:
    part = build(layout, head=head, threshold=0.0, every_updates=1, optimizer=OptimizerSettings("sgd", 0.0))
    silent = {}
    with torch.no_grad():
        for layer in part.network.units.layers:
            silent[layer.name] = torch.arange(layer.units) % 2 == 0
            weight, bias = part.network.tensor(layer.weight.tensor), part.network.tensor(layer.bias.tensor)  # type: ignore[union-attr]
            weight[silent[layer.name]] = 0.0
            bias[silent[layer.name]] = 0.0
            # Behind a batch normalisation 0 stays 0, and so does it in both halves of a CReLU.
    inputs = inputs_of(part, 0)
    before = part.forward(inputs).detach()
    logs = part.step(part.forward(inputs).sum(), None)
    assert int(logs["redo/units_reset"]) >= sum(int(mask.sum()) for mask in silent.values())
    torch.testing.assert_close(part.forward(inputs).detach(), before, rtol=1e-5, atol=1e-6)
    for layer in part.network.units.layers:
        assert bool(part.network.tensor(layer.weight.tensor)[silent[layer.name]].any())


@pytest.mark.parametrize("bias", ["resample", "zero"])
def test_bias_of_a_reset_unit(bias: str) -> None:
    part = build(threshold=10.0, every_updates=1, bias=bias)
    update(part)
    values = part.network.tensor("torso.layers.dense_1.linear.bias")
    assert bool((values == 0).all()) == (bias == "zero")
    assert bool((values != 0).all()) == (bias == "resample")


@pytest.mark.parametrize("layout", ["mlp", "conv_crelu"])
def test_restoring_the_initial_values(layout: str) -> None:
    part = build(layout, threshold=100.0, every_updates=4, incoming="restore", bias="restore")
    initial = deepcopy(part.network.state_dict())
    for step in range(1, 5):
        update(part, step)
    # Every unit was reset: all columns that read units are 0, and the rest of what feeds units is as it was at first.
    first, *others = part.network.units.layers
    assert torch.equal(part.network.tensor(first.weight.tensor), initial[first.weight.tensor])
    for layer in part.network.units.layers:
        assert layer.bias is not None
        assert torch.equal(part.network.tensor(layer.bias.tensor), initial[layer.bias.tensor])
    assert not any(part.network.tensor(layer.weight.tensor).any() for layer in others)


def test_restored_values_are_those_of_the_run_that_was_saved() -> None:
    settings = {"threshold": 100.0, "every_updates": 2, "incoming": "restore"}
    whole, resumed = build(**settings), build(seed=1, **settings)
    update(whole, 1)
    resumed.load_state_dict(deepcopy(whole.state_dict()))
    for part in (whole, resumed):
        update(part, 2)
    weights = [part.network.tensor("torso.layers.dense_1.linear.weight") for part in (whole, resumed)]
    assert torch.equal(*weights)


def test_fresh_weights_from_xaviers_distribution() -> None:
    part = build(threshold=100.0, every_updates=1, incoming="xavier", bias="zero")
    update(part, 1)
    weight = part.network.tensor("torso.layers.dense_1.linear.weight")
    bound, own = (6 / (3 + 7)) ** 0.5, part.network.initialisers["torso.layers.dense_1.linear.weight"].scale
    assert own < weight.abs().max() <= bound


def test_consumers_bias_is_untouched() -> None:
    part = build(threshold=10.0, every_updates=1, optimizer=OptimizerSettings("sgd", 0.0))
    before = part.network.tensor("head.linear.bias").detach().clone()
    update(part)
    assert torch.equal(part.network.tensor("head.linear.bias"), before)
    assert not part.network.tensor("head.linear.weight").any()


def test_restart_counts_the_steps_of_reset_entries_from_zero() -> None:
    part = build(threshold=0.9, every_updates=5, optimizer_state="restart")
    for step in range(1, 6):
        logs = update(part, step)
    assert 0 < int(logs["redo/units_reset"]) < 13
    weight = part.network.tensor("torso.layers.dense_1.linear.weight")
    state = part.optimizer.state[weight]
    assert isinstance(part.optimizer, UnitAdam)
    reset = part.optimizer.restarted_at(weight) == 5
    assert bool(reset.any())
    assert not bool(reset.all())
    assert not state["exp_avg"][reset].any()
    before = weight.detach().clone()
    update(part, 6)
    assert weight.grad is not None
    chosen = reset & (weight.grad.abs() > 1e-5)
    # A unit's first step under a fresh Adam is the learning rate times the sign. (Its outgoing weights are 0, so it has no
    # gradient at first, unless the next layer was reset with it.)
    torch.testing.assert_close((before - weight.detach())[chosen], 0.02 * weight.grad.sign()[chosen], rtol=1e-2, atol=1e-6)
    head = part.network.tensor("head.linear.weight")
    assert head.grad is not None
    assert bool((part.optimizer.restarted_at(head) == 5).any())


def test_normalisation_of_reset_units_is_fresh() -> None:
    part = build("batch_norm", threshold=10.0, every_updates=4)
    for step in range(1, 5):
        update(part, step)
    norm = "torso.layers.dense_1.norms.0"
    fresh = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for kind, value in fresh.items():
        assert (part.network.tensor(f"{norm}.{kind}") == value).all()


def test_draws_are_private_and_new_each_time() -> None:
    def draws(seed: int) -> list[Tensor]:
        part = build(seed=seed, threshold=10.0, every_updates=1)
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


# Refusals


def test_a_linear_model_is_refused() -> None:
    part = PartBuilder(MLPSpec(widths=[]), (3,), torch.float32, OptimizerSettings(), {"redo": ReDo})
    with pytest.raises(ValueError, match="intervention redo resets hidden units, and this network has none"):
        part("q", HeadSpec("q", 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": -0.1}, r"redo\.threshold=-0\.1 must be at least 0"),
        ({"every_updates": -1}, r"redo\.every_updates=-1 must be at least 0"),
        ({"average_updates": 0}, r"redo\.average_updates=0 must be between 1 and 1000"),
        ({"every_updates": 5, "average_updates": 6}, r"redo\.average_updates=6 must be between 1 and 5"),
        ({"bias": "keep"}, r"redo\.bias=keep is unknown; choose from resample, zero, restore"),
        ({"incoming": "zero"}, r"redo\.incoming=zero is unknown; choose from resample, xavier, restore"),
        (
            {"optimizer_state": "reset"},
            r"redo\.optimizer_state=reset is unknown \(did you mean restart\?\); choose from keep, zero, restart",
        ),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReDo(**settings)
