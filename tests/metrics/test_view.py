from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention
from plasticity.metrics.view import view_part
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.execution import Execution
from plasticity.updates.updater import Updater

BALANCE = LoadBalancingSpec(low=0.5, high=0.5, step_size=0.01)


@dataclass
class NeedsTaps(Intervention):
    """Has the training forward recorded, and does nothing with it."""

    needs_taps: ClassVar[bool] = True


@dataclass(frozen=True)
class Case:
    spec: NetworkSpec
    shape: tuple[int, ...] = (3,)
    dtype: torch.dtype = torch.float32
    autocast: torch.dtype | None = None

    def build(self) -> Updater:
        """A part after two updates: its taps and buffers hold something."""
        methods: dict[str, Callable[[], Intervention]] = {"taps": NeedsTaps}
        settings = OptimizerSettings(learning_rate=0.01)
        builder = PartBuilder(self.spec, self.shape, self.dtype, settings, methods, execution=Execution(self.autocast))
        part = builder("q", HeadSpec("q", 2))
        for seed in range(2):
            train(part, self.inputs(6, seed))
        return part

    def inputs(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.dtype == torch.uint8:
            return torch.randint(0, 256, (count, *self.shape), generator=generator, dtype=torch.uint8)
        return torch.randn(count, *self.shape, generator=generator)


CASES = {
    "mlp": Case(MLPSpec(widths=[5, 4])),
    "crelu": Case(MLPSpec(widths=[5, 4], activations=["crelu"])),
    "batch_norm_and_balance": Case(MLPSpec(widths=[5, 4], normalisation=["batch"], load_balancing=BALANCE)),
    "conv": Case(
        ConvSpec(widths=[5], channels=[3, 2], pools=[1, 2], normalisation=["batch"], load_balancing=BALANCE),
        (2, 9, 9),
        torch.uint8,
    ),
    "bf16": Case(MLPSpec(widths=[5, 4], normalisation=["batch"], load_balancing=BALANCE), autocast=torch.bfloat16),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def train(part: Updater, inputs: Tensor) -> None:
    part.step(part.forward(inputs).square().mean(), None)


def hand_set(**settings: object) -> Updater:
    """Two inputs, units x + y and x - y, then a unit that adds both."""
    part = Case(MLPSpec(widths=[2, 1], **settings), (2,)).build()  # type: ignore[arg-type]
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.linear.weight").copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        part.network.tensor("torso.layers.dense_2.linear.weight").fill_(1.0)
        for name in ("dense_1", "dense_2"):
            part.network.tensor(f"torso.layers.{name}.linear.bias").zero_()
    return part


# What is seen


def test_activations_by_hand() -> None:
    # Inputs (1, 2) and (3, 1): z = (3, -1) and (4, 2), h = (3, 0) and (4, 2), then 3 and 6.
    view = view_part("q", hand_set(), torch.tensor([[1.0, 2.0], [3.0, 1.0]]))
    first, second = view.layers
    assert (view.name, view.reason) == ("q", "")
    assert (first.name, second.name) == ("dense_1", "dense_2")
    assert first.pre.tolist() == [[3.0, -1.0], [4.0, 2.0]]
    assert first.post.tolist() == [[3.0, 0.0], [4.0, 2.0]]
    assert second.pre.tolist() == second.post.tolist() == [[3.0], [6.0]]


def test_crelu_by_hand() -> None:
    # z = (3, -1): relu(z) = (3, 0), relu(-z) = (0, 1).
    first, second = view_part("q", hand_set(activations=["crelu"]), torch.tensor([[1.0, 2.0]])).layers
    assert first.activation_name == "crelu"
    assert first.activation.copies == 2
    assert first.pre.tolist() == [[3.0, -1.0]]
    assert first.post.tolist() == [[3.0, 0.0, 0.0, 1.0]]
    assert second.pre.tolist() == [[4.0]]


def test_each_layer_has_its_own_activation() -> None:
    layers = view_part("q", hand_set(activations=["tanh", "abs"]), torch.ones(1, 2)).layers
    assert [layer.activation_name for layer in layers] == ["tanh", "abs"]
    assert [layer.activation.threshold for layer in layers] == [False, True]


def test_evaluation_mode_by_hand() -> None:
    # Running mean 1 and variance 4 - 1e-5: z = 3 and 4 become 1 and 1.5, for any mean of the batch itself; then + 0.25.
    part = hand_set(normalisation=["batch"], load_balancing=BALANCE)
    path = "torso.layers.dense_1"
    for name, value in [("norms.0.running_mean", 1.0), ("norms.0.running_var", 4 - 1e-5), ("balance.offset", 0.25)]:
        part.network.tensor(f"{path}.{name}").fill_(value)
    with torch.no_grad():
        part.network.tensor(f"{path}.norms.0.weight").fill_(1.0)
        part.network.tensor(f"{path}.norms.0.bias").fill_(0.0)
    layer = view_part("q", part, torch.tensor([[1.0, 2.0], [3.0, 1.0]])).layers[0]
    assert layer.pre[:, 0].tolist() == pytest.approx([1.25, 1.75])


def test_singular_values_are_those_of_the_flattened_features() -> None:
    # Two inputs, h of shape (2, 2, 1, 2): rows (3, 0, 0, 0) and (0, 0, 0, 4), so 4 and 3.
    part = Case(ConvSpec(widths=[], channels=[2], kernel_sizes=[1]), (1, 1, 2)).build()
    with torch.no_grad():
        part.network.tensor("torso.layers.conv_1.linear.weight").copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        part.network.tensor("torso.layers.conv_1.linear.bias").zero_()
    layer = view_part("q", part, torch.tensor([[[[3.0, 0.0]]], [[[0.0, -4.0]]]])).layers[0]
    assert layer.post.flatten(1).tolist() == [[3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 4.0]]
    assert layer.singular_values.tolist() == pytest.approx([4.0, 3.0])
    assert layer.singular_values is layer.singular_values


def test_activations_of_a_convolution_are_those_before_the_pooling() -> None:
    case = CASES["conv"]
    layers = view_part("q", case.build(), case.inputs(7, 1)).layers
    assert [tuple(layer.post.shape) for layer in layers] == [(7, 3, 7, 7), (7, 2, 5, 5), (7, 5)]


def test_finite_tells_of_either_side_of_the_activation() -> None:
    part = hand_set()
    assert all(layer.finite for layer in view_part("q", part, torch.ones(2, 2)).layers)
    # x - y overflows to minus infinity, which the relu hides.
    first, _ = view_part("q", part, torch.tensor([[-3e38, 3e38]])).layers
    assert first.post.isfinite().all()
    assert not first.finite
    first, second = view_part("q", part, torch.tensor([[1.0, 1.0], [3e38, 3e38]])).layers
    assert not first.finite
    assert not second.finite


@pytest.mark.parametrize(
    ("widths", "inputs", "reason"),
    [
        ([], torch.ones(2, 3), "the network has no hidden layer"),
        ([], None, "the network has no hidden layer"),
        ([4], None, "there are no inputs yet"),
    ],
)
def test_reasons_for_seeing_nothing(widths: list[int], inputs: Tensor | None, reason: str) -> None:
    part = Case(MLPSpec(widths=widths)).build()
    view = view_part("q", part, inputs)
    assert (view.layers, view.reason) == ((), reason)
    assert view.part is part


# What is left alone


def test_taps_of_the_training_forward_stay(case: Case) -> None:
    part = case.build()
    taps = part.network.taps
    before = [(store, dict(store), {name: value.clone() for name, value in store.items()}) for store in (taps.pre, taps.post)]
    view = view_part("q", part, case.inputs(9, 7))
    assert not taps.recording
    for (store, tensors, values), now in zip(before, (taps.pre, taps.post), strict=True):
        assert now is store
        assert tensors.keys() == now.keys() == {layer.name for layer in view.layers}
        for name, tensor in tensors.items():
            assert now[name] is tensor
            assert torch.equal(tensor, values[name])
            assert tensor.shape[0] == 6


@pytest.mark.parametrize("training", [True, False])
def test_mode_weights_and_buffers_stay(case: Case, training: bool) -> None:
    part = case.build()
    network = part.network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = {name: module.training for name, module in network.named_modules()}
    state = torch.get_rng_state()
    view = view_part("q", part, case.inputs(9, 7))
    assert network.training is training
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(layer.pre.requires_grad or layer.post.requires_grad for layer in view.layers)


def test_a_training_forward_would_have_moved_the_buffers() -> None:
    case = CASES["conv"]
    network = case.build().network.train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(case.inputs(9, 7))
    moved = {name.rpartition(".")[2] for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    assert moved == {"running_mean", "running_var", "num_batches_tracked", "firing_rate", "offset"}


def test_training_goes_on_as_if_nothing_had_been_seen(case: Case) -> None:
    seen, unseen = case.build(), case.build()
    view_part("q", seen, case.inputs(9, 7))
    for part in (seen, unseen):
        train(part, case.inputs(6, 3))
    pairs = zip(seen.network.state_dict().items(), unseen.network.state_dict().items(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def test_a_run_in_bf16_is_seen_in_float32() -> None:
    case = CASES["bf16"]
    part = case.build()
    assert part.network.taps.pre["dense_1"].dtype == torch.bfloat16
    view = view_part("q", part, case.inputs(9, 7))
    assert {layer.pre.dtype for layer in view.layers} == {torch.float32}


def test_a_failing_forward_leaves_mode_and_taps() -> None:
    part = CASES["batch_norm_and_balance"].build()
    part.network.train()
    pre = part.network.taps.pre
    with pytest.raises(RuntimeError):
        view_part("q", part, torch.ones(2, 5))
    assert part.network.training
    assert part.network.taps.pre is pre
    assert not part.network.taps.recording


def test_evaluation_mode_ends_with_the_block() -> None:
    network = CASES["batch_norm_and_balance"].build().network.train()
    with network.evaluating():
        assert not any(module.training for module in network.modules())
    assert all(module.training for module in network.modules())
