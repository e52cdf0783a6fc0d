from copy import deepcopy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.infer import Heads, InFeR, head_gradients, infer_errors
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater


class Inputs(NamedTuple):
    """What an update learns from."""

    inputs: Tensor


Q = HeadSpec("q", 2)
CASES: dict[str, tuple[NetworkSpec, tuple[int, ...], HeadSpec, dict[str, tuple[str, int]]]] = {
    "mlp": (MLPSpec(widths=[5, 4]), (3,), Q, {"dense_2": ("torso.layers.dense_2", 4)}),
    "conv": (
        ConvSpec(widths=[4], channels=[3], activations=["crelu"]),
        (1, 4, 4),
        Q,
        {"dense_1": ("torso.layers.dense_1", 8)},
    ),
    "dueling": (
        MLPSpec(widths=[5]),
        (3,),
        HeadSpec("q", 2, dueling=True, stream_widths=(4,)),
        {"value_1": ("head.layers.value_1", 4), "advantage_1": ("head.layers.advantage_1", 4)},
    ),
}


def build(case: str = "mlp", treated: bool = True, optimizer: str = "adam", seed: int = 0, **settings: Any) -> Updater:
    spec, inputs, head, _ = CASES[case]
    methods = {"infer": lambda: InFeR(**settings)} if treated else {}
    return PartBuilder(spec, inputs, torch.float32, OptimizerSettings(optimizer, 0.02, [0.8, 0.9]), methods, seed)("q", head)


def batch_of(part: Updater, step: int, count: int = 6) -> Inputs:
    return Inputs(torch.randn(count, *part.network.input_shape, generator=torch.Generator().manual_seed(step)))


def update(part: Updater, step: int, count: int = 6) -> dict[str, Any]:
    batch = batch_of(part, step, count)
    return part.step(part.forward(batch.inputs).square().mean(), batch)


def test_errors_and_gradients_by_hand() -> None:
    # One example, two features (1, 2), two heads: (1, 0) + 1 = 2 and (0, 3) + 0 = 6; at the start h0 = (1, 1), heads 1 and 2
    # without bias: 2 and 4, times 10. Errors -18 and -34; gradients 2 e h and 2 e.
    heads = Heads(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([1.0, 0.0]))
    start = Heads(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.zeros(2))
    features = torch.tensor([[1.0, 2.0]])
    errors = infer_errors(features, heads, torch.ones(1, 2), start, 10.0)
    assert errors.tolist() == [[-18.0, -34.0]]
    weight, bias = head_gradients(errors, features)
    assert weight.tolist() == [[-36.0, -72.0], [-68.0, -136.0]]
    assert bias.tolist() == [-36.0, -68.0]


def test_gradients_are_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    features, start = torch.randn(2, 6, 4, generator=generator)
    heads = Heads(torch.randn(3, 4, generator=generator).requires_grad_(), torch.randn(3, generator=generator).requires_grad_())
    errors = infer_errors(features, heads, start, Heads(torch.ones(3, 4), torch.ones(3)), 2.0)
    expected = torch.autograd.grad(errors.square().sum(1).mean(), [*heads])
    for ours, theirs in zip(head_gradients(errors.detach(), features), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


class Naive:
    """Heads as modules, a copy of the network, hooks on its features, and an optimizer of the heads."""

    def __init__(self, treated: Updater, plain: Updater, case: str, scale: float) -> None:
        state, self.scale = treated.interventions["infer"].state, scale
        self.start = build(case, treated=False).network
        self.start.load_state_dict(plain.network.state_dict())
        self.network = plain.network
        self.seen: dict[str, Tensor] = {}
        self.layers = CASES[case][3]
        self.heads, self.targets = nn.ModuleDict(), nn.ModuleDict()
        for layer, (path, width) in self.layers.items():
            for heads in (self.heads, self.targets):
                heads[layer] = nn.Linear(width, state[f"heads/{layer}/bias"].shape[0])
                heads[layer].load_state_dict({key: state[f"heads/{layer}/{key}"] for key in ("weight", "bias")})
            for role, network in (("now", self.network), ("then", self.start)):
                network.get_submodule(path).register_forward_hook(self.hook(f"{role}/{layer}"))
        self.optimizer = torch.optim.Adam(self.heads.parameters(), lr=0.02, betas=(0.8, 0.9))

    def hook(self, key: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.seen[key] = output

        return keep

    def step(self, plain: Updater, step: int, coefficient: float) -> Tensor:
        batch = batch_of(plain, step)
        loss = plain.forward(batch.inputs).square().mean()
        with torch.no_grad():
            self.start(batch.inputs)
        total = torch.zeros(())
        for layer in self.layers:
            targets = self.scale * self.targets[layer](self.seen[f"then/{layer}"]).detach()
            total = total + (self.heads[layer](self.seen[f"now/{layer}"]) - targets).pow(2).sum(1).mean()
        self.optimizer.zero_grad()
        plain.step(loss + coefficient * total, batch)
        self.optimizer.step()
        return coefficient * total.detach()


@pytest.mark.parametrize("over_heads", ["sum", "mean"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_modules_trained_alongside_the_network(case: str, over_heads: str) -> None:
    treated, plain = build(case, coefficient=0.03, heads=5, scale=4.0, over_heads=over_heads), build(case, treated=False)
    naive = Naive(treated, plain, case, 4.0)
    for step in range(8):
        logs = update(treated, step)
        expected = naive.step(plain, step, 0.03 / (5 if over_heads == "mean" else 1))
        torch.testing.assert_close(logs["infer/loss"], expected, rtol=1e-3, atol=1e-4)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-2, atol=1e-4)
    state = treated.interventions["infer"].state
    for layer in naive.layers:
        for key in ("weight", "bias"):
            trained = getattr(naive.heads[layer], key)
            torch.testing.assert_close(state[f"heads/{layer}/{key}"], trained.detach(), rtol=1e-3, atol=1e-4)
            assert not torch.equal(state[f"heads/{layer}/{key}"], state[f"initial_heads/{layer}/{key}"])


def test_the_term_pulls_the_heads_outputs_to_the_scaled_initial_ones() -> None:
    part = build(coefficient=1.0, scale=3.0, heads=4)
    losses = []
    for _ in range(400):
        batch = batch_of(part, 0)
        losses.append(float(part.step(part.forward(batch.inputs).sum() * 0.0, batch)["infer/loss"]))
    assert losses[-1] < 0.01 * losses[0]


def test_the_heads_are_trained_at_the_part_s_step_size() -> None:
    part = build(optimizer="sgd")
    part.optimizer.param_groups[0]["lr"] = 0.0
    update(part, 0)
    state = part.interventions["infer"].state
    assert torch.equal(state["heads/dense_2/weight"], state["initial_heads/dense_2/weight"])
    part.optimizer.param_groups[0]["lr"] = 0.5
    update(part, 1)
    assert not torch.equal(state["heads/dense_2/weight"], state["initial_heads/dense_2/weight"])


def test_state_and_the_optimizer() -> None:
    part, other = build(), build(seed=1)
    held = [id(value) for group in part.optimizer.param_groups for value in group["params"]]
    assert held == [id(value) for value in part.network.parameters()]
    start = {name: value.detach().clone() for name, value in part.network.named_parameters()}
    for step in range(3):
        update(part, step)
    state = part.interventions["infer"].state_dict()
    assert all(torch.equal(state[f"network/{name}"], value) for name, value in start.items())
    assert state["heads/dense_2/weight"].shape == (10, 4)
    assert state["heads/dense_2/weight"].abs().max() > 0
    other.load_state_dict(deepcopy(part.state_dict()))
    one, two = update(part, 9), update(other, 9)
    assert torch.equal(one["infer/loss"], two["infer/loss"])
    assert torch.equal(update(part, 10)["infer/loss"], update(other, 10)["infer/loss"])


def test_running_statistics_are_left_alone() -> None:
    spec = MLPSpec(widths=[5], normalisation=["batch"])
    parts = [
        PartBuilder(spec, (3,), torch.float32, OptimizerSettings("sgd", 0.0), methods)("q", Q)
        for methods in ({}, {"infer": InFeR})
    ]
    for part in parts:
        update(part, 0)
    for (name, value), other in zip(parts[0].network.named_buffers(), parts[1].network.buffers(), strict=True):
        assert torch.equal(value, other), name
    assert parts[1].interventions["infer"].state["network/torso.layers.dense_1.norms.0.num_batches_tracked"] == 0


def test_dead_features_and_single_examples() -> None:
    part = build(coefficient=1.0)
    with torch.no_grad():
        for value in part.network.parameters():
            value.zero_()
    for step in range(2):
        assert update(part, step, count=1)["infer/loss"].isfinite()
    assert all(value.isfinite().all() for value in part.network.parameters())


def test_no_strength_is_absence() -> None:
    treated, plain = build(coefficient=0.0), build(treated=False)
    for step in range(3):
        assert update(treated, step) == {}
        update(plain, step)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coefficient": -0.1}, r"infer\.coefficient=-0\.1 must be at least 0"),
        ({"heads": 0}, r"infer\.heads=0 must be at least 1"),
        ({"scale": -1.0}, r"infer\.scale=-1\.0 must be at least 0"),
        ({"over_heads": "max"}, r"infer\.over_heads=max is unknown; choose from sum, mean"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InFeR(**settings)
