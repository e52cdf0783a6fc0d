from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

BuildPart = Callable[..., PartBuilder]
HEAD = HeadSpec("regression", 2)


class Batch(NamedTuple):
    """A batch of regression."""

    inputs: Tensor
    targets: Tensor


def batch(seed: int = 0, inputs: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(16, inputs, generator=generator), torch.randn(16, 2, generator=generator))


def update(updater: Updater, seed: int = 0) -> Logs:
    data = batch(seed)
    return updater.step((updater.forward(data.inputs) - data.targets).square().mean(), data)


def weights(updater: Updater) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in updater.network.parameters()]


def all_equal(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# The order of things


class TapedSGD(torch.optim.SGD):
    """Notes its calls and the gradient norm it is given."""

    def __init__(self, parameters: Iterator[torch.nn.Parameter], tape: list[Any]) -> None:
        super().__init__(parameters, lr=0.1)
        self.tape = tape

    def step(self, closure: Any = None) -> None:
        gradients = [parameter.grad for parameter in self.param_groups[0]["params"]]
        norm = torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm()
        self.tape.append(f"optimizer.step with norm {norm.item():.3f}")
        super().step(closure)


@dataclass
class Taped(Intervention):
    """Notes every hook and what of the update is already there."""

    label: str = ""
    tape: list[Any] = field(default_factory=list)

    def attach(self, u: Update) -> None:
        self.tape.append(f"{self.label} attach {u.step}")

    def loss(self, u: Update) -> Tensor | None:
        self.tape.append(f"{self.label} loss {u.step}")
        return None if self.label == "b" else sum(p.sum() for p in u.network.parameters()) * 0.5

    def after_backward(self, u: Update) -> Logs:
        present = all(parameter.grad is not None for parameter in u.network.parameters())
        self.tape.append(f"{self.label} after_backward {u.step} gradients {present}")
        return {"seen": float(len(self.tape))}

    def measure(self, parameters: Mapping[str, Tensor], post: Mapping[str, Tensor], running: Sequence[Tensor]) -> None:
        self.tape.append(f"{self.label} measure {', '.join(post)}")

    def after_step(self, u: Update) -> Logs:
        self.tape.append(f"{self.label} after_step {u.step}")
        return {"done": 1.0}

    def task_switch(self, u: Update, task: int) -> Logs:
        self.tape.append(f"{self.label} task_switch {u.step} to {task}")
        return {"task": float(task)}


def taped(names: str, max_gradient_norm: float | None = None) -> tuple[Updater, list[Any]]:
    tape: list[Any] = []
    network = build_network(MLPSpec(widths=[3]), (4,), torch.float32, HEAD, 0)
    methods = {name: Taped(label=name, tape=tape) for name in names}
    return Updater("q", network, TapedSGD(network.parameters(), tape), methods, 0, max_gradient_norm), tape


class BackwardMark(torch.autograd.Function):
    """The identity, with a note on the tape when the gradient passes."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, network: Network, tape: list[Any]) -> Tensor:
        ctx.network, ctx.tape = network, tape
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cleared = all(parameter.grad is None for parameter in ctx.network.parameters())
        ctx.tape.append(f"backward, gradients cleared {cleared}")
        return gradient, None, None


def test_tape_of_an_update_and_a_task_switch() -> None:
    updater, tape = taped("ba", max_gradient_norm=0.125)
    data = batch()
    for _ in range(2):  # the second finds gradients of the first
        loss = (updater.forward(data.inputs) - data.targets).square().mean()
        updater.step(BackwardMark.apply(loss, updater.network, tape), data)
    updater.task_switch(3)
    assert tape == [
        "b attach 0",
        "a attach 0",
        *one_update(1),
        *one_update(2),
        "b task_switch 2 to 3",
        "a task_switch 2 to 3",
    ]


def one_update(number: int) -> list[str]:
    return [
        f"b loss {number}",
        f"a loss {number}",
        "backward, gradients cleared True",
        f"b after_backward {number} gradients True",
        f"a after_backward {number} gradients True",
        "optimizer.step with norm 0.125",
        "b measure dense_1",
        "a measure dense_1",
        f"b after_step {number}",
        f"a after_step {number}",
    ]


@pytest.mark.parametrize("names", ["ab", "ba", "cab"])
def test_hooks_run_in_the_order_of_the_config(names: str) -> None:
    updater, tape = taped(names)
    tape.clear()
    update(updater)
    for hook in ("loss", "after_backward", "measure", "after_step"):
        assert "".join(entry[0] for entry in tape if f" {hook} " in entry) == names


def test_logs_carry_the_name_of_their_method() -> None:
    updater, _ = taped("ba")
    logs = update(updater)
    # Half the sum of all parameters is a's term; b has none.
    assert list(logs) == ["a/loss", "b/seen", "a/seen", "b/done", "a/done"]
    assert updater.task_switch(3) == {"b/task": 3.0, "a/task": 3.0}


def test_terms_of_the_loss_are_added_and_logged() -> None:
    updater, _ = taped("a")
    total = sum(parameter.detach().sum() for parameter in updater.network.parameters())
    before = weights(updater)
    logs = updater.step(updater.forward(batch().inputs).sum() * 0.0, batch())
    assert float(logs["a/loss"]) == pytest.approx(0.5 * float(total))
    # The gradient is 0.5 everywhere: SGD with step size 0.1 takes 0.05 off.
    for old, new in zip(before, updater.network.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.05)


def squared_error(outputs: Tensor, data: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    error = (outputs - data.targets).square()
    return error.mean(), {"worst": error.max()}


def test_an_update_from_an_objective_is_forward_and_step(builder: BuildPart) -> None:
    one, two = (builder({"keep": KeepViews})("q", HEAD) for _ in range(2))
    for seed in range(3):
        data = batch(seed)
        loss, measures = squared_error(one.forward(data.inputs), data)
        expected = one.step(loss, data) | {"worst": measures["worst"], "train/loss": loss}
        logs = two.update(squared_error, data)
        assert logs.keys() == expected.keys()
        assert all(torch.equal(logs[name], expected[name]) for name in logs)  # type: ignore[arg-type]
        assert not any(value.requires_grad for value in logs.values())  # type: ignore[union-attr]
    assert all_equal(weights(one), weights(two))


def test_the_loss_of_the_logs_is_without_the_terms_of_the_interventions() -> None:
    updater, _ = taped("a")
    data = batch()
    loss, _ = squared_error(updater.infer(data.inputs, updater.network), data)
    logs = updater.update(squared_error, data)
    assert float(logs["train/loss"]) == pytest.approx(float(loss))
    assert abs(float(logs["a/loss"])) > 0.01


@dataclass
class SetGradient(Intervention):
    """Makes every gradient entry ``value``."""

    value: float = 3.0

    def after_backward(self, u: Update) -> Logs:
        for parameter in u.network.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(self.value)
        return {}


def sgd(builder: BuildPart, methods: Mapping[str, Callable[[], Intervention]], clip: float | None = None) -> Updater:
    settings = OptimizerSettings("sgd", 1.0, max_gradient_norm=clip)
    return builder(methods, spec=MLPSpec(widths=[3]), optimizer=settings)("q", HEAD)


def test_clipping_comes_after_the_interventions(builder: BuildPart) -> None:
    # 4*3 + 3 + 3*2 + 2 = 23 entries of 3: norm 3 sqrt(23); clipped to 0.5 every entry moves by 0.5 / sqrt(23).
    updater = sgd(builder, {"set": SetGradient}, clip=0.5)
    before = weights(updater)
    update(updater)
    moves = torch.cat([(old - new).flatten() for old, new in zip(before, weights(updater), strict=True)])
    torch.testing.assert_close(moves, torch.full((23,), 0.5 / 23**0.5), rtol=1e-4, atol=1e-6)


def test_a_small_gradient_is_not_clipped(builder: BuildPart) -> None:
    one, two = sgd(builder, {}, clip=None), sgd(builder, {}, clip=1e6)
    update(one)
    update(two)
    assert all_equal(weights(one), weights(two))


# Non-finite losses and gradients


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["loss", "gradient", "one entry"])
def test_non_finite_updates_are_refused(
    builder: BuildPart, same: Callable[[Any, Any], bool], through_disk: Any, bad: float, where: str
) -> None:
    methods = {"set": lambda: Spoil(value=bad, at=3 if where != "loss" else 0, everywhere=where == "gradient")}
    updater = builder(methods, optimizer=OptimizerSettings(max_gradient_norm=1.0))("q", HEAD)
    for seed in range(2):
        update(updater, seed)
    before = through_disk({"weights": updater.network.state_dict(), "optimizer": updater.optimizer.state_dict()})
    data = batch(2)
    loss = (updater.forward(data.inputs) - data.targets).square().mean()
    with pytest.raises(FloatingPointError, match="part q: the loss or a gradient is not finite in update 3"):
        updater.step(loss * 0 + bad if where == "loss" else loss, data)
    assert same(before, {"weights": updater.network.state_dict(), "optimizer": updater.optimizer.state_dict()})


@dataclass
class Spoil(Intervention):
    """Spoils gradients at update ``at``."""

    value: float = 0.0
    at: int = 0
    everywhere: bool = False

    def after_backward(self, u: Update) -> Logs:
        gradients = [parameter.grad for parameter in u.network.parameters() if parameter.grad is not None]
        if u.step == self.at:
            for gradient in gradients if self.everywhere else gradients[2:3]:
                gradient.view(-1)[1] = self.value
        return {}

    def after_step(self, u: Update) -> Logs:
        assert u.step != self.at
        return {}


def test_a_non_finite_term_of_an_intervention_is_refused(builder: BuildPart) -> None:
    updater = builder({"term": Infinite})("q", HEAD)
    before = weights(updater)
    with pytest.raises(FloatingPointError, match="in update 1"):
        update(updater)
    assert all_equal(before, weights(updater))


@dataclass
class Infinite(Intervention):
    """Adds an infinite constant to the loss."""

    def loss(self, u: Update) -> Tensor | None:
        return torch.tensor(float("inf"))


def test_training_continues_after_a_refused_update(builder: BuildPart) -> None:
    updater, plain = builder()("q", HEAD), builder()("q", HEAD)
    for seed in range(2):
        update(updater, seed)
        update(plain, seed)
    with pytest.raises(FloatingPointError):
        updater.step(updater.forward(batch().inputs).sum() * float("nan"), batch())
    update(updater, 5)
    update(plain, 5)
    assert all_equal(weights(updater), weights(plain))
    updater.raise_if_not_finite()


# Forward, prediction, views


def test_prediction_is_in_evaluation_mode_and_training_forward_is_not(builder: BuildPart) -> None:
    updater = builder(spec=MLPSpec(widths=[5], normalisation=["batch"]))("q", HEAD)
    data = batch()
    fresh = updater.predict(data.inputs)
    assert torch.equal(fresh, updater.predict(data.inputs))
    trained = updater.forward(data.inputs)
    assert not torch.allclose(trained, fresh)
    assert trained.requires_grad
    assert not fresh.requires_grad
    assert updater.network.get_buffer("torso.layers.dense_1.norms.0.num_batches_tracked").item() == 1


@dataclass
class KeepViews(Intervention):
    """Keeps the views it was shown."""

    needs_taps = True

    def attach(self, u: Update) -> None:
        self.views: list[Update] = []

    def after_step(self, u: Update) -> Logs:
        self.views.append(u)
        return {"first": u.taps.post["dense_1"].clone()}


def test_view_of_an_update(builder: BuildPart) -> None:
    updater, other = builder({"keep": KeepViews})("q", HEAD), builder()("q", HEAD)
    data = batch()
    before = {name: value.clone() for name, value in updater.network.state_dict().items()}
    logs = update(updater)
    view = updater.interventions["keep"].views[0]  # type: ignore[attr-defined]
    assert (view.step, view.network, view.optimizer) == (1, updater.network, updater.optimizer)
    assert torch.equal(view.batch.inputs, data.inputs)
    layer = "torso.layers.dense_1.linear"
    # The activations are those made with the weights before the update.
    expected = torch.relu(data.inputs @ before[f"{layer}.weight"].T + before[f"{layer}.bias"])
    torch.testing.assert_close(logs["keep/first"], expected)
    update(other)
    assert not other.network.taps.post


@dataclass
class KeepSwitch(KeepViews):
    """Keeps the views of task switches too."""

    def task_switch(self, u: Update, task: int) -> Logs:
        self.views.append(u)
        return {}


def test_view_of_a_task_switch_holds_what_a_resumed_run_has_too(builder: BuildPart) -> None:
    updater = builder({"keep": KeepSwitch})("q", HEAD)
    update(updater)
    updater.task_switch(1)
    update(updater)
    during, switch, after = updater.interventions["keep"].views  # type: ignore[attr-defined]
    assert (switch.step, switch.network, switch.optimizer) == (1, updater.network, updater.optimizer)
    assert (switch.batch, switch.taps.pre, switch.taps.post) == (None, {}, {})
    assert switch.generator is during.generator
    assert list(during.taps.post) == list(after.taps.post) == ["dense_1", "dense_2"]
    assert during.batch is not None


def test_predictions_leave_the_taps_of_the_training_forward(builder: BuildPart) -> None:
    updater = builder({"keep": KeepViews})("q", HEAD)
    data = batch()
    loss = updater.forward(data.inputs).sum()
    updater.predict(batch(7).inputs)
    logs = updater.step(loss, data)
    clean = builder({"keep": KeepViews})("q", HEAD)
    expected = clean.step(clean.forward(data.inputs).sum(), data)
    assert torch.equal(logs["keep/first"], expected["keep/first"])  # type: ignore[arg-type]


@dataclass
class Substitute(Intervention):
    """Evaluates another network."""

    seed: int = 1

    def attach(self, u: Update) -> None:
        self.other: Network = u.network.fresh(self.seed)

    def evaluation_network(self, u: Update) -> Network:
        return self.other


@dataclass
class Decline(Intervention):
    """Could choose a network and leaves it at the trained one."""

    def evaluation_network(self, u: Update) -> Network:
        return u.network


def test_an_intervention_may_choose_the_network_that_acts(builder: BuildPart) -> None:
    updater = builder({"idle": Intervention, "other": Substitute, "later": Decline})("q", HEAD)
    inputs = batch().inputs
    assert updater.evaluation_network() is updater.interventions["other"].other  # type: ignore[attr-defined]
    assert torch.equal(updater.predict(inputs), updater.infer(inputs, updater.network.fresh(1)))
    assert builder({"idle": Intervention})("q", HEAD).evaluation_network() is not None
    plain = builder()("q", HEAD)
    assert plain.evaluation_network() is plain.network


@dataclass
class Draw(Intervention):
    """Draws one number at each update."""

    def after_step(self, u: Update) -> Logs:
        return {"number": torch.rand((), generator=u.generator)}


def test_generators_are_private_to_seed_part_and_name(builder: BuildPart) -> None:
    def numbers(names: list[str], part: str = "q", seed: int = 0) -> dict[str, list[float]]:
        updater = builder(dict.fromkeys(names, Draw), seed=seed)(part, HEAD)
        logs = [update(updater, index) for index in range(3)]
        return {name: [float(log[f"{name}/number"]) for log in logs] for name in names}

    both = numbers(["a", "b"])
    assert both["a"] != both["b"]
    assert numbers(["a"])["a"] == numbers(["b", "a"])["a"] == both["a"]
    assert numbers(["a"], part="v")["a"] != both["a"]
    assert numbers(["a"], seed=1)["a"] != both["a"]


# Precision


@pytest.mark.parametrize("normalisation", [[], ["layer"], ["batch"]])
def test_bf16_forward_returns_float32_and_learns(builder: BuildPart, normalisation: list[str]) -> None:
    spec = MLPSpec(widths=[32], normalisation=normalisation)
    updater = builder(spec=spec, autocast=torch.bfloat16)("q", HEAD)
    exact = builder(spec=spec)("q", HEAD)
    inputs = batch().inputs
    outputs = updater.forward(inputs)
    assert outputs.dtype == updater.predict(inputs).dtype == torch.float32
    difference = (outputs - exact.forward(inputs)).abs().max()
    assert 0 < difference < 0.1  # 8 bits: it is another precision, and nearly the same number
    losses = []
    for _ in range(200):
        loss = (updater.forward(inputs) - batch().targets).square().mean()
        losses.append(loss.item())
        updater.step(loss, batch())
    assert losses[-1] < 0.2 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in updater.network.parameters())


# What a method differentiates


@dataclass
class Differentiating(Intervention):
    """Adds the squared norm of the loss's gradient and the mean square of the first layer's live activations."""

    needs_graph: ClassVar[bool] = True

    def loss(self, u: Update) -> Tensor:
        assert u.loss is not None
        gradients = torch.autograd.grad(u.loss, list(u.network.parameters()), create_graph=True)
        self.state["live"] = sorted(u.taps.live)
        return sum(gradient.square().sum() for gradient in gradients) + u.taps.live["dense_1"].square().mean()  # type: ignore[return-value]


def test_a_loss_term_differentiates_through_the_training_forward(builder: BuildPart) -> None:
    method = Differentiating()
    part = builder({"differentiating": lambda: method})("q", HEAD)
    reference = deepcopy(part.network)
    inputs = torch.randn(5, *part.network.input_shape, generator=torch.Generator().manual_seed(0))
    logs = part.step(part.forward(inputs).square().mean(), None)
    layer = reference.units.layers[0].name
    with reference.taps.record():
        reference.taps.keeps_graph = True
        loss = reference(inputs).square().mean()
    gradients = torch.autograd.grad(loss, list(reference.parameters()), create_graph=True)
    term = sum(g.square().sum() for g in gradients) + reference.taps.live[layer].square().mean()
    torch.testing.assert_close(logs["differentiating/loss"], term.detach())
    expected = torch.autograd.grad(loss + term, list(reference.parameters()))
    for parameter, gradient in zip(part.network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert not part.network.taps.live  # the graph is free again
    assert part.hooks.view("differentiating").loss is None


def test_differentiating_methods_do_not_compile(builder: BuildPart) -> None:
    with pytest.raises(ValueError, match="compile=true does not work with differentiating, which differentiates"):
        builder({"differentiating": Differentiating}, compile=True)("q", HEAD)


@dataclass
class Recomputing(Intervention):
    """Doubles the weights, computes the loss and its gradient there, and restores the weights."""

    needs_recompute: ClassVar[bool] = True

    def after_backward(self, u: Update) -> Logs:
        assert u.recompute is not None
        parameters = list(u.network.parameters())
        with torch.no_grad():
            torch._foreach_mul_(parameters, 2.0)
        loss = u.recompute()
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            torch._foreach_mul_(parameters, 0.5)
        return {"loss_there": loss.detach()}


class Inputs(NamedTuple):
    inputs: Tensor


def mean_square(outputs: Tensor, batch: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    return outputs.square().mean(), {}


@pytest.mark.parametrize("compile", [False, True])
def test_the_loss_is_computed_again_at_other_weights(builder: BuildPart, compile: bool) -> None:
    part = builder({"recomputing": Recomputing}, compile=compile)("q", HEAD)
    reference = deepcopy(part.network)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(2)
    inputs = torch.randn(5, *part.network.input_shape, generator=torch.Generator().manual_seed(0))
    logs = part.update(mean_square, Inputs(inputs))
    loss = reference(inputs).square().mean()
    loss.backward()
    torch.testing.assert_close(logs["recomputing/loss_there"], loss.detach())
    for parameter, other in zip(part.network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


def test_a_step_without_recomputing_the_loss_is_refused(builder: BuildPart) -> None:
    part = builder({"recomputing": Recomputing})("q", HEAD)
    with pytest.raises(ValueError, match="recomputing needs the loss again, which part q does not offer"):
        part.step(part.forward(torch.zeros(2, *part.network.input_shape)).sum(), None)
    assert part.steps == 0
