"""Compiled updates against plain ones: the same numbers up to rounding, and the same promises."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from registries import forget_entries
from torch import Tensor

from plasticity.agents.agent import Agent
from plasticity.agents.dqn.agent import DQN, DQNSettings
from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience, Transitions
from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.optimizers.factory import OPTIMIZERS, OptimizerSettings, optimizer
from plasticity.updates.compiled_function import CompiledFunction
from plasticity.updates.updater import Updater

BuildPart = Callable[..., PartBuilder]
Methods = dict[str, dict[str, Any]]

HEAD = HeadSpec("regression", 2)
CLIP = 0.3
SGD = OptimizerSettings("sgd", 0.05, max_gradient_norm=CLIP)
OPTIMIZER_CASES = {
    "sgd": OptimizerSettings("sgd", 0.05, max_gradient_norm=0.5),  # the whole step is made inside
    "momentum": OptimizerSettings("sgd", 0.02, momentum=0.9, max_gradient_norm=0.5),
    # A gradient of rounding errors alone, divided by its own size, would not be the same up to rounding.
    "adam": OptimizerSettings("adam", 0.01, epsilon=1e-4, max_gradient_norm=0.5),
}
MLP = MLPSpec(widths=[8, 6])
CONV = ConvSpec(widths=[6], channels=[4], pools=[2], activations=["relu", "crelu"])
SHAPES = {"mlp": (MLP, (4,)), "conv": (CONV, (1, 6, 6))}


@dataclass
class Anchor(Intervention):
    """A term of the loss, as a plugin would write it: the outputs on this batch are not to grow."""

    needs_taps: ClassVar = True
    strength: float = 0.1

    def loss(self, u: Update) -> Tensor | None:
        assert u.taps.post
        return self.strength * u.network(u.batch.inputs).square().mean() if u.step % 3 else None


METHODS = {**{name: INTERVENTIONS[name] for name in INTERVENTIONS}, "anchor": Anchor}
CBP = {"replacement_rate": 0.2, "maturity_updates": 3}
CHOICES: dict[str, Methods] = {
    "nothing": {},
    "redo": {"redo": {"threshold": 0.6, "every_updates": 4, "average_updates": 2}},
    "contribution": {"continual_backprop": CBP | {"utility": "contribution"}},
    "zero_contribution": {"continual_backprop": CBP | {"utility": "zero_contribution"}},
    "adaptable_contribution": {"continual_backprop": CBP | {"utility": "adaptable_contribution"}},
    "l2": {"l2": {"coefficient": 0.1}},
    "l2_init": {"l2_init": {"coefficient": 0.1}},
    "shrink_and_perturb": {"shrink_and_perturb": {"shrink": 0.9, "perturb": 0.1, "every_updates": 5}},
    "reset": {"reset": {"last_layers": 1, "every_updates": 7}},
    "adam_state_reset": {"adam_state_reset": {"every_updates": 4}},
    "anchor": {"anchor": {}},
    "dropout": {"dropout": {"rates": [0.3]}},
}
AGENTS: dict[str, dict[str, Any]] = {
    "supervised": {},
    "squared": {"loss": "squared"},
    "two_hot": {"loss": "two_hot", "bins": 11, "label_smoothing": 0.1, "discount": 0.9},
    "double": {"loss": "huber", "double": True},
}


def build(
    builder: BuildPart, compile: bool, agent: str, torso: str, optimizer: OptimizerSettings, methods: Methods, seed: int = 0
) -> Agent:
    spec, shape = SHAPES[torso]
    factories = {name: lambda name=name: METHODS[name](**methods[name]) for name in methods}  # type: ignore[misc]
    part = builder(factories, seed, spec, inputs=shape, optimizer=optimizer, compile=compile)
    if agent == "supervised":
        return SupervisedLearner(SupervisedSettings(recent_examples=20), 3, True, part)
    size = {"batch_size": 8, "warmup_env_steps": 0, "buffer_transitions": 40, "target_every_updates": 5}
    return DQN(DQNSettings(**size, env_steps_per_update=4, **AGENTS[agent]), 3, part)


def experience(agent: Agent, index: int) -> Experience:
    """The same at each call with the same index."""
    generator = torch.Generator().manual_seed(index)
    shape = part_of(agent).network.input_shape
    inputs, following = torch.randn(2, 8, *shape, generator=generator)
    labels = torch.randint(3, (8,), generator=generator)
    if isinstance(agent, SupervisedLearner):
        return Experience(Examples(inputs, labels), 0)
    rewards, ends = torch.rand(4, generator=generator), torch.rand(4, generator=generator) < 0.2
    return Experience(Transitions(inputs[:4], labels[:4], rewards, ends, ~ends, following[:4]), 0)


def part_of(agent: Agent) -> Updater:
    return next(iter(agent.parts.values()))


def weights(part: Updater) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in part.network.parameters()]


def close(one: Any, two: Any) -> None:
    """Equality up to the rounding of some ten updates in float32; numbers are of the order of 1."""
    torch.testing.assert_close(one, two, rtol=1e-4, atol=3e-6)


def agree(one: Updater, two: Updater) -> None:
    """Compares all that two parts have become."""
    close(weights(one), weights(two))
    if any(method.needs_taps for method in one.interventions.values()):
        assert one.network.taps.pre
        close(one.network.taps.pre, two.network.taps.pre)
        close(one.network.taps.post, two.network.taps.post)
    for name, method in one.interventions.items():
        for key, value in method.state.items():
            exactly = key.endswith("/age")  # 0 where a unit has just been replaced, so the masks are equal
            (assert_equal if exactly else close)(value, two.interventions[name].state[key])


def assert_equal(one: Tensor, two: Tensor) -> None:
    assert torch.equal(one, two)


def learn_alike(plain: Agent, compiled: Agent, updates: int) -> list[Mapping[str, Any]]:
    """Makes updates on the same data and compares after each; returns the logs of the compiled ones."""
    seen: list[Mapping[str, Any]] = []
    for index in range(updates):
        logs, others = (agent.learn(experience(agent, index)) for agent in (plain, compiled))
        assert logs.keys() == others.keys()
        close({name: torch.as_tensor(logs[name]) for name in logs}, {name: torch.as_tensor(others[name]) for name in logs})
        agree(part_of(plain), part_of(compiled))
        seen.append(others)
    assert part_of(compiled).steps == updates
    return seen


def train_alike(builder: BuildPart, agent: str, torso: str, optimizer: str, methods: Methods) -> list[Mapping[str, Any]]:
    plain, compiled = (build(builder, compile, agent, torso, OPTIMIZER_CASES[optimizer], methods) for compile in (False, True))
    before = weights(part_of(compiled))
    logs = learn_alike(plain, compiled, 30)
    moves = torch.cat([(new - old).flatten() for old, new in zip(before, weights(part_of(compiled)), strict=True)])
    assert moves.abs().max() > 0.01  # some thousand times what counts as rounding
    return logs


# The same numbers


def test_sgd_with_the_step_inside_and_methods_that_measure_and_read_activations(builder: BuildPart) -> None:
    logs = train_alike(builder, "supervised", "mlp", "sgd", CHOICES["adaptable_contribution"] | CHOICES["redo"])
    assert logs[0].keys() == {"train/loss", "online/loss", "online/accuracy", "continual_backprop/units_reset"}
    assert sum(float(entry["continual_backprop/units_reset"]) for entry in logs) > 20
    assert sum(float(entry.get("redo/units_reset", 0)) for entry in logs) > 5


@pytest.mark.slow
def test_adam_on_convolutions_with_methods_that_reset_and_regularise(builder: BuildPart) -> None:
    methods = {name: CHOICES[name][name] for name in ("redo", "l2_init", "reset", "adam_state_reset")}
    logs = train_alike(builder, "two_hot", "conv", "adam", methods)
    assert logs[0].keys() == {"train/loss", "train/target_value"}
    assert sum(float(entry.get("redo/units_reset", 0)) for entry in logs) > 5


@pytest.mark.slow
def test_momentum_with_a_term_of_the_loss(builder: BuildPart) -> None:
    logs = train_alike(builder, "double", "mlp", "momentum", CHOICES["anchor"] | CHOICES["shrink_and_perturb"])
    assert sum("anchor/loss" in entry for entry in logs) == 20


@pytest.mark.slow
@pytest.mark.parametrize("methods", CHOICES)
@pytest.mark.parametrize("optimizer", OPTIMIZER_CASES)
@pytest.mark.parametrize(("agent", "torso"), product(AGENTS, SHAPES))
def test_every_method_on_every_optimizer(builder: BuildPart, agent: str, torso: str, optimizer: str, methods: str) -> None:
    if methods == "adam_state_reset" and optimizer != "adam":
        with pytest.raises(ValueError, match="needs optimizer=adam"):
            train_alike(builder, agent, torso, optimizer, CHOICES[methods])
        return
    train_alike(builder, agent, torso, optimizer, CHOICES[methods])


# One part alone: a small regression, plain and compiled


class Batch(NamedTuple):
    """A batch of regression."""

    inputs: Tensor
    targets: Tensor


def batch(seed: int, count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(count, 4, generator=generator), torch.randn(count, 2, generator=generator))


def distance(outputs: Tensor, data: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The root of a sum of squares, which at a sum of 0 has no finite gradient; also the first output."""
    return (outputs * data.targets).square().sum().sqrt() / 8, {"first": outputs[0, 0]}


def regression(
    builder: BuildPart,
    compile: bool = True,
    methods: Mapping[str, Callable[[], Intervention]] | None = None,
    optimizer: OptimizerSettings = SGD,
    **part: Any,
) -> Updater:
    return builder(methods, spec=MLP, optimizer=optimizer, compile=compile, **part)("q", HEAD)


def update_alike(plain: Updater, compiled: Updater, data: Batch) -> None:
    logs, others = (part.update(distance, data) for part in (plain, compiled))
    assert logs.keys() == others.keys()
    close({name: logs[name] for name in logs}, {name: others[name] for name in logs})
    agree(plain, compiled)


def count_compilations(patch: pytest.MonkeyPatch) -> list[object]:
    """Returns a list that grows by one at every compilation."""
    made: list[object] = []
    original = CompiledFunction._compile

    def noted(self: CompiledFunction, tensors: Sequence[Tensor]) -> object:
        made.append(tensors)
        return original(self, tensors)

    patch.setattr(CompiledFunction, "_compile", noted)
    return made


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    return count_compilations(monkeypatch)


class Life(NamedTuple):
    """The first updates of a plain and of a compiled part, with plain SGD and continual backpropagation.

    Attributes:
        plain: The plain one; other tests go on with both, alike.
        compiled: The compiled one.
        compilations: Their number after 0, 1, 2, ... updates.
        seen: What either had become after each update, and its logs.
    """

    plain: Updater
    compiled: Updater
    compilations: list[int]
    seen: list[tuple[dict[str, Any], dict[str, Any]]]


SMALLER = (20, 40, 120)


@pytest.fixture(scope="module")
def life(builder: BuildPart) -> Life:
    with pytest.MonkeyPatch.context() as patch:
        made = count_compilations(patch)
        plain, compiled = (regression(builder, compile, {"continual_backprop": cbp}) for compile in (False, True))
        counts, seen = [0], []
        for number in range(1, 204):
            data = batch(number, count=5 if number in SMALLER else 8)
            logs, others = (part.update(distance, data) for part in (plain, compiled))
            seen.append((became(plain) | logs, became(compiled) | others))
            counts.append(len(made))
    return Life(plain, compiled, counts, seen)


def cbp() -> Intervention:
    """Continual backpropagation that replaces units at nearly every update."""
    return METHODS["continual_backprop"](**CBP)


def became(part: Updater) -> dict[str, Any]:
    state = {name: value.clone() for name, value in part.interventions["continual_backprop"].state.items()}
    return {"weights": weights(part), "trace": {k: torch.as_tensor(v) for k, v in part.trace.norms.items()}, **state}


def test_traced_updates_and_smaller_batches_are_the_same_too(life: Life) -> None:
    for one, two in life.seen:
        assert one.keys() == two.keys()
        assert torch.equal(one["dense_1/age"], two["dense_1/age"])
        for key in one:
            close(one[key], two[key])
    assert sum(float(entry["continual_backprop/units_reset"]) for _, entry in life.seen) > 100


def test_number_of_compilations(life: Life) -> None:
    # Update 1 is traced, which returns the gradients too. The others are one function, and another for the smaller batch.
    assert life.compilations == [0, 1] + [2] * 18 + [3] * 184


def test_norms_are_those_of_the_first_update_and_of_every_hundredth(life: Life) -> None:
    assert [int(entry["trace"]["update"]) for _, entry in life.seen] == [1] * 99 + [100] * 100 + [200] * 4
    assert 0.01 < float(life.seen[99][1]["trace"]["optimizer"]) < 0.1


@pytest.mark.slow
def test_compilations_of_an_optimizer_that_steps_outside(builder: BuildPart, compilations: list[object]) -> None:
    plain, compiled = (regression(builder, compile, optimizer=OPTIMIZER_CASES["adam"]) for compile in (False, True))
    for number in range(1, 103):
        update_alike(plain, compiled, batch(number, count=5 if number == 50 else 8))
        assert len(compilations) == (1 if number < 50 else 2)


def test_a_step_has_the_clipped_length_at_the_learning_rate_of_the_moment(life: Life, compilations: list[object]) -> None:
    clipped = []
    for number, rate in enumerate([0.05, 0.4, 0.4, 0.4, 0.0, 0.0, 0.1, 0.05], 300):
        data = batch(number)
        for part in (life.plain, life.compiled):
            part.optimizer.param_groups[0]["lr"] = rate
            for name in ("dense_1", "dense_2"):
                part.interventions["continual_backprop"].state[f"{name}/age"].zero_()  # nothing is replaced
            norm, before = gradient_norm(part, data), weights(part)
            part.update(distance, data)
            assert length(before, weights(part)) == pytest.approx(rate * min(norm, CLIP), rel=1e-3, abs=1e-9)
            clipped.append(norm > CLIP)
        agree(life.plain, life.compiled)
    assert {*clipped} == {False, True}
    assert len(compilations) == 0


def gradient_norm(part: Updater, data: Batch) -> float:
    parameters = list(part.network.parameters())
    gradients = torch.autograd.grad(distance(part.network(data.inputs), data)[0], parameters)
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


def length(before: list[Tensor], after: list[Tensor]) -> float:
    return float(torch.cat([(new - old).flatten() for old, new in zip(before, after, strict=True)]).norm())


def test_other_strides_of_a_batch_are_compiled_again(life: Life, compilations: list[object]) -> None:
    data = batch(4)
    update_alike(life.plain, life.compiled, data._replace(inputs=data.inputs.t().contiguous().t()))
    update_alike(life.plain, life.compiled, data)
    assert len(compilations) == 1


@pytest.mark.slow
def test_bf16(builder: BuildPart) -> None:
    plain, compiled, exact = (
        regression(builder, compile, autocast=autocast)
        for compile, autocast in ((False, torch.bfloat16), (True, torch.bfloat16), (False, None))
    )
    for number in range(1, 31):
        logs, others, _ = (part.update(distance, batch(number)) for part in (plain, compiled, exact))
        assert others["train/loss"].dtype == torch.float32  # type: ignore[union-attr]
        torch.testing.assert_close(logs, others, rtol=1e-2, atol=1e-2)
    assert length(weights(compiled), weights(plain)) < 0.3 * length(weights(exact), weights(plain))


# What is refused


BAD = {
    "loss": batch(4)._replace(inputs=torch.full((8, 4), torch.inf)),
    "gradient": batch(4)._replace(targets=torch.zeros(8, 2)),  # the loss is 0
}


def refuse_alike(plain: Updater, compiled: Updater, bad: Batch, same: Any, through_disk: Any) -> None:
    before = through_disk(compiled.state_dict())
    for part in (plain, compiled):
        with pytest.raises(
            FloatingPointError, match=f"^part q: the loss or a gradient is not finite in update {part.steps + 1}$"
        ):
            part.update(distance, bad)
    assert same(compiled.state_dict(), before | {"steps": before["steps"] + 1})
    update_alike(plain, compiled, batch(5))


@pytest.mark.parametrize("where", BAD)
def test_a_step_inside_that_is_not_finite_changes_nothing(life: Life, same: Any, through_disk: Any, where: str) -> None:
    """Neither weights nor what continual backpropagation remembers."""
    refuse_alike(life.plain, life.compiled, BAD[where], same, through_disk)


def test_a_step_outside_that_is_not_finite_changes_nothing(builder: BuildPart, same: Any, through_disk: Any) -> None:
    plain, compiled = (regression(builder, compile, optimizer=OPTIMIZER_CASES["adam"]) for compile in (False, True))
    for bad in BAD.values():
        update_alike(plain, compiled, batch(1))
        refuse_alike(plain, compiled, bad, same, through_disk)


@dataclass
class Constant(Intervention):
    """Adds a number to the loss that no weight has a part in."""

    value: float = 1.0

    def loss(self, u: Update) -> Tensor | None:
        return torch.tensor(self.value)


def test_a_term_without_gradient_changes_no_weight_and_must_be_finite(builder: BuildPart) -> None:
    plain, compiled = (regression(builder, compile, {"constant": Constant}) for compile in (False, True))
    alone = regression(builder, compile=False)
    for number in range(1, 4):
        update_alike(plain, compiled, batch(number))
        alone.update(distance, batch(number))
    close(weights(alone), weights(compiled))
    compiled.interventions["constant"].value = float("nan")  # type: ignore[attr-defined]
    before = weights(compiled)
    with pytest.raises(FloatingPointError, match="in update 4"):
        compiled.update(distance, batch(4))
    assert all(torch.equal(old, new) for old, new in zip(before, weights(compiled), strict=True))


def buffers(part: Updater) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in part.network.named_buffers()}


BALANCED = LoadBalancingSpec(low=0.5, high=0.5, step_size=0.05)
CHANGING = {
    "both": MLPSpec(widths=[5], normalisation=["batch"], load_balancing=BALANCED),
    "moments": MLPSpec(widths=[5], normalisation=["batch_mean", "batch_std"]),
    "spectral": MLPSpec(widths=[5, 5], spectral_layers=[1]),
    "resnet": ResNetSpec(widths=[], channels=[3, 4], normalisation=["batch"], residual_blocks=1, load_balancing=BALANCED),
}


@pytest.mark.parametrize(
    ("changing", "optimizer"),
    [("both", "sgd"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in product(CHANGING, ["sgd", "momentum"]))],
)
def test_layers_that_change_in_a_forward_pass_change_alike(builder: BuildPart, changing: str, optimizer: str) -> None:
    shape = (3, 6, 6) if changing == "resnet" else (4,)
    made = [
        builder(spec=CHANGING[changing], inputs=shape, optimizer=OPTIMIZER_CASES[optimizer], compile=compile)("q", HEAD)
        for compile in (False, True)
    ]
    plain, compiled = made
    before = buffers(compiled)
    for number in range(4):
        data = batch(number)
        data = data._replace(inputs=torch.randn(8, *shape, generator=torch.Generator().manual_seed(number)))
        plain.infer(data.inputs, plain.network), compiled.infer(data.inputs, compiled.network)  # leave evaluation mode behind
        update_alike(plain, compiled, data)
        close(buffers(plain), buffers(compiled))
    assert any(not torch.equal(value, before[name]) for name, value in buffers(compiled).items())
    if optimizer == "sgd":
        kept = buffers(compiled)
        with pytest.raises(FloatingPointError, match="in update 5"):
            compiled.update(distance, data._replace(inputs=data.inputs * float("nan")))
        assert all(torch.equal(value, kept[name]) for name, value in buffers(compiled).items())


# Steps that cannot be made inside


class Halved(torch.optim.SGD):
    """Steps half as far."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"] / 2)


def two_rates(parameters: list[torch.nn.Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": parameters[:2], "lr": 0.2}, {"params": parameters[2:]}], lr=0.01)


def heavy(parameters: list[torch.nn.Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def decayed(parameters: list[torch.nn.Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.05, weight_decay=2.0)


def uphill(parameters: list[torch.nn.Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.05, maximize=True)


def halved(parameters: list[torch.nn.Parameter]) -> torch.optim.SGD:
    return Halved(parameters, lr=0.05)


MAKERS = [two_rates, heavy, decayed, uphill, halved]


def registered(patch: pytest.MonkeyPatch, make: Callable[..., torch.optim.SGD]) -> OptimizerSettings:
    """Enters an optimizer as a plugin does, for the length of a test."""
    forget_entries(patch, OPTIMIZERS)

    @optimizer("of_a_user")
    def _build(settings: OptimizerSettings, network: Network, seed: int) -> torch.optim.SGD:
        return make(list(network.parameters()))

    return OptimizerSettings("of_a_user")


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_the_step_of_another_optimizer_is_not_made_inside(
    builder: BuildPart, monkeypatch: pytest.MonkeyPatch, make: Callable[..., torch.optim.SGD]
) -> None:
    assert regression(builder)._rule is not None
    assert regression(builder, optimizer=registered(monkeypatch, make))._rule is None


# A step outside is the optimizer's own, whichever it is: one stands for all.
@pytest.mark.parametrize(
    "make",
    [make if make is halved else pytest.param(make, marks=pytest.mark.slow) for make in MAKERS],
    ids=lambda make: make.__name__,
)
def test_an_optimizer_of_a_user_keeps_its_own_step(
    builder: BuildPart, monkeypatch: pytest.MonkeyPatch, make: Callable[..., torch.optim.SGD]
) -> None:
    settings = registered(monkeypatch, make)
    plain, compiled = (regression(builder, compile, optimizer=settings) for compile in (False, True))
    usual = regression(builder, compile=False)
    for number in range(1, 6):
        update_alike(plain, compiled, batch(number))
        usual.update(distance, batch(number))
    assert length(weights(usual), weights(compiled)) > 0.005


def test_a_method_that_edits_gradients_freely_keeps_the_step_outside(builder: BuildPart) -> None:
    methods = {"l2_init": lambda: METHODS["l2_init"](coefficient=2.0, towards="fresh")}
    part = regression(builder, True, methods)
    assert part._rule is None


@pytest.mark.parametrize(
    "optimizer", [SGD, OptimizerSettings("adam", 0.01, epsilon=1e-4, max_gradient_norm=CLIP)], ids=["sgd", "adam"]
)
@pytest.mark.parametrize("method", ["l2", "l2_init", "parseval", "wasserstein_init"])
def test_gradients_are_edited_inside_the_step(builder: BuildPart, method: str, optimizer: OptimizerSettings) -> None:
    methods = {method: lambda: METHODS[method](coefficient=2.0)}
    plain, compiled = (regression(builder, compile, methods, optimizer=optimizer) for compile in (False, True))
    assert compiled._rule is not None
    usual = regression(builder, compile=False)
    for number in range(1, 6):
        update_alike(plain, compiled, batch(number))
        usual.update(distance, batch(number))
    assert length(weights(usual), weights(compiled)) > 0.001


# Terms of the loss

TERMS: dict[str, Methods] = {
    "gradient_norm": {"gradient_norm": {"coefficient": 0.3}},
    "feature_norm": {"feature_norm": {"coefficient": 0.3, "layers": "all"}},
    "both": {"feature_norm": {"coefficient": 0.3}, "gradient_norm": {"coefficient": 0.3}},
}


@pytest.mark.parametrize(
    ("methods", "torso", "optimizer"),
    [
        case if case == ("both", "mlp", "adam") else pytest.param(*case, marks=pytest.mark.slow)
        for case in product(TERMS, SHAPES, ("sgd", "adam"))
    ],
)
def test_terms_are_added_inside(builder: BuildPart, methods: str, torso: str, optimizer: str) -> None:
    made = [build(builder, compile, "supervised", torso, OPTIMIZER_CASES[optimizer], TERMS[methods]) for compile in (False, True)]
    assert part_of(made[1])._rule is not None
    usual = build(builder, False, "supervised", torso, OPTIMIZER_CASES[optimizer], {})
    for logs in learn_alike(*made, 5):
        assert {f"{name}/loss" for name in TERMS[methods]} <= logs.keys()
    for index in range(5):
        usual.learn(experience(usual, index))
    assert length(weights(part_of(usual)), weights(part_of(made[1]))) > 0.001


@pytest.mark.slow
def test_a_term_inside_and_one_outside_are_both_added(builder: BuildPart) -> None:
    methods = TERMS["gradient_norm"] | CHOICES["anchor"]
    plain, compiled = (build(builder, compile, "supervised", "mlp", SGD, methods) for compile in (False, True))
    logs = learn_alike(plain, compiled, 4)
    assert {"gradient_norm/loss", "anchor/loss"} <= logs[1].keys()
    assert part_of(compiled)._rule is None


@pytest.mark.slow
def test_terms_inside_count_for_a_method_that_computes_the_loss_again(builder: BuildPart) -> None:
    methods: Methods = TERMS["gradient_norm"] | {"sam": {"radius": 0.1}}
    plain, compiled = (build(builder, compile, "supervised", "mlp", SGD, methods) for compile in (False, True))
    learn_alike(plain, compiled, 4)


def test_a_term_that_is_not_finite_is_refused_before_it_reaches_the_weights(builder: BuildPart) -> None:
    part = build(builder, True, "supervised", "mlp", SGD, {"feature_norm": {"coefficient": 1e38}})
    for index in (0, 1):
        before = weights(part_of(part))
        with pytest.raises(FloatingPointError, match=f"in update {index + 1}"):
            part.learn(Experience(Examples(1e3 * torch.ones(8, 4), torch.zeros(8, dtype=torch.int64)), 0))
        assert all(torch.equal(one, two) for one, two in zip(before, weights(part_of(part)), strict=True))


def test_churn_relative_to_the_loss(builder: BuildPart) -> None:
    methods: Methods = {"churn": {"relative": 0.3, "coefficient": 1.0, "adapt_after_updates": 4}}
    plain, compiled = (build(builder, compile, "supervised", "mlp", SGD, methods) for compile in (False, True))
    logs = learn_alike(plain, compiled, 8)
    assert "churn/loss" in logs[-1]


def test_restarted_entries_are_corrected_where_no_gradient_is_left(builder: BuildPart) -> None:
    """As in the first updates after a resume: ``grad`` is set by traced updates alone."""
    methods = {"continual_backprop": lambda: METHODS["continual_backprop"](**CBP, optimizer_state="restart")}
    settings = OptimizerSettings("adam", 0.01, epsilon=1e-4)
    plain, compiled = (regression(builder, compile, methods, optimizer=settings) for compile in (False, True))
    for number in range(1, 13):
        for parameter in compiled.network.parameters():
            parameter.grad = None
        update_alike(plain, compiled, batch(number))
    assert any("restarted_at" in own for own in compiled.optimizer.state.values())


# Hooks


TAPE: list[tuple[Any, ...]] = []


@dataclass
class Taped(Intervention):
    """Notes its hooks in ``TAPE``, and whether gradients are there."""

    label: str = ""

    def loss(self, u: Update) -> Tensor | None:
        TAPE.append((self.label, "loss", u.step))
        return None

    def after_backward(self, u: Update) -> Logs:
        TAPE.append((self.label, "after_backward", u.step, all(p.grad is not None for p in u.network.parameters())))
        return {}

    def after_step(self, u: Update) -> Logs:
        TAPE.append((self.label, "after_step", u.step))
        return {"seen": u.batch.inputs.sum()}


def test_hooks_run_in_the_order_of_the_config(builder: BuildPart) -> None:
    part = regression(builder, methods={label: lambda label=label: Taped(label=label) for label in "ba"})  # type: ignore[misc]
    TAPE.clear()
    for number in (1, 2):
        logs = part.update(distance, batch(number))
        assert float(logs["a/seen"]) == float(logs["b/seen"]) == float(batch(number).inputs.sum())
    hooks = [("loss",), ("after_backward", True), ("after_step",)]
    assert [(label, hook[0], number, *hook[1:]) for number in (1, 2) for hook in hooks for label in "ba"] == TAPE


SEEN: list[bool] = []


@dataclass
class Watcher(Intervention):
    """Notes in ``after_step`` whether terms were added to the loss."""

    def after_step(self, u: Update) -> Logs:
        SEEN.append(u.has_terms)
        return {}


@pytest.mark.parametrize("treated", [True, False])
def test_terms_that_are_added_inside_the_step_are_known(
    builder: BuildPart, treated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CompiledFunction, "_compile", lambda self, _: self._function)  # the same without waiting for a compiler
    methods: dict[str, Callable[[], Intervention]] = {"gradient_norm": lambda: METHODS["gradient_norm"](coefficient=0.1)}
    part = regression(builder, True, {**(methods if treated else {}), "watcher": Watcher})
    SEEN.clear()
    part.update(distance, batch(1))  # traced, and so with the step outside
    part.hooks._has_terms = not treated  # as after a resume, which does not know
    part.update(distance, batch(2))
    assert [treated, treated] == SEEN


# State


def test_parameters_stay_the_same_objects_in_the_same_places(life: Life) -> None:
    part = life.compiled
    held = [id(parameter) for group in part.optimizer.param_groups for parameter in group["params"]]
    places = [(id(parameter), parameter.data_ptr()) for parameter in part.network.parameters()]
    before = weights(part)
    for number in range(1, 6):
        update_alike(life.plain, part, batch(number))
    assert length(before, weights(part)) > 0
    assert places == [(id(parameter), parameter.data_ptr()) for parameter in part.network.parameters()]
    assert held == [id(parameter) for group in part.optimizer.param_groups for parameter in group["params"]]
    assert held == [place[0] for place in places]
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in part.network.parameters())


@pytest.mark.slow  # by default a state is loaded into a part that has compiled, below, and the laws resume every method
@pytest.mark.parametrize(
    ("optimizer", "methods"),
    [
        ("sgd", CHOICES["adaptable_contribution"] | CHOICES["redo"]),
        ("sgd", CHOICES["shrink_and_perturb"] | CHOICES["reset"]),
        ("momentum", CHOICES["anchor"] | CHOICES["shrink_and_perturb"]),
        ("adam", CHOICES["zero_contribution"] | CHOICES["redo"]),
    ],
    ids=["sgd", "sgd-reset", "momentum", "adam"],
)
@pytest.mark.parametrize("agent", ["supervised", "two_hot"])
def test_resuming_equals_going_on(
    builder: BuildPart, same: Any, through_disk: Any, agent: str, optimizer: str, methods: Methods
) -> None:
    whole, resumed = (build(builder, True, agent, "mlp", OPTIMIZER_CASES[optimizer], methods, seed) for seed in (0, 5))
    for index in range(60):
        whole.learn(experience(whole, index))
    half = through_disk(whole.state_dict())
    resumed.load_state_dict(half)
    assert same(half, resumed.state_dict())
    for index in range(60, 120):  # a traced update among them
        logs, others = (agent.learn(experience(agent, index)) for agent in (whole, resumed))
        assert same(logs, others)
    assert same(whole.state_dict(), resumed.state_dict())
    assert not same(half, resumed.state_dict())


def test_a_state_can_be_loaded_into_a_part_that_has_compiled(life: Life, same: Any, through_disk: Any) -> None:
    saved = through_disk(life.compiled.state_dict())
    runs = []
    for _ in range(2):
        life.compiled.load_state_dict(saved)
        assert same(life.compiled.state_dict(), saved)
        logs = [through_disk(life.compiled.update(distance, batch(number))) for number in range(3)]
        runs.append((logs, through_disk(life.compiled.state_dict())))
    assert same(runs[0], runs[1])
    life.compiled.load_state_dict(saved)


def test_a_copy_of_the_network_is_independent(life: Life) -> None:
    copy: Network = deepcopy(life.compiled.network)
    kept = [parameter.detach().clone() for parameter in copy.parameters()]
    update_alike(life.plain, life.compiled, batch(3))
    assert length(kept, weights(life.compiled)) > 0
    assert all(torch.equal(old, new) for old, new in zip(kept, copy.parameters(), strict=True))
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.fill_(7.0)
    update_alike(life.plain, life.compiled, batch(4))


def test_logs_of_an_update_stay_as_they_are(life: Life, through_disk: Any, same: Any) -> None:
    """Results are tensors of their own: neither buffers of the next call nor views of the weights."""
    logs = [life.compiled.update(distance, batch(1))]
    kept = through_disk(logs)
    life.plain.update(distance, batch(1))
    for number in range(2, 5):
        update_alike(life.plain, life.compiled, batch(number))
    assert same(logs, kept)
