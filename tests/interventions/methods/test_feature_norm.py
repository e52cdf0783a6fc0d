from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.feature_norm import FeatureNorm, feature_norm_penalty
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

DUELING = HeadSpec("q", 2, dueling=True, stream_widths=(4,))
CASES: dict[str, tuple[NetworkSpec, tuple[int, ...], HeadSpec, list[str], list[str]]] = {
    "mlp": (MLPSpec(widths=[5, 4]), (3,), HeadSpec("q", 2), ["torso.layers.dense_2"], ["torso.layers.dense_1"]),
    "conv": (
        ConvSpec(widths=[4], channels=[3], activations=["crelu"]),
        (1, 4, 4),
        HeadSpec("q", 2),
        ["torso.layers.dense_1"],
        ["torso.layers.conv_1"],
    ),
    "dueling": (
        MLPSpec(widths=[5]),
        (3,),
        DUELING,
        ["head.layers.value_1", "head.layers.advantage_1"],
        ["torso.layers.dense_1"],
    ),
}


def build(case: str = "mlp", treated: bool = True, **settings: Any) -> Updater:
    spec, inputs, head, _, _ = CASES[case]
    methods = {"feature_norm": lambda: FeatureNorm(**settings)} if treated else {}
    return PartBuilder(spec, inputs, torch.float32, OptimizerSettings("adam", 0.05), methods)("q", head)


def inputs_of(part: Updater, step: int, count: int = 6) -> Tensor:
    return torch.randn(count, *part.network.input_shape, generator=torch.Generator().manual_seed(step))


@contextmanager
def outputs_of(network: Network, paths: list[str]) -> Iterator[list[Tensor]]:
    """What the modules at these paths return, found by hooks."""
    seen: list[Tensor] = []
    hooks = [network.get_submodule(path).register_forward_hook(lambda *call: seen.append(call[2])) for path in paths]
    yield seen
    for hook in hooks:
        hook.remove()


def test_penalty_by_hand() -> None:
    # ((1 + 4) + (9 + 16)) / 2 = 15 and (1 + 1) / 2 = 1; 0.1 * 16 = 1.6.
    layers = [torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[[[1.0]]], [[[-1.0]]]])]
    assert feature_norm_penalty(layers, 0.1).item() == pytest.approx(1.6)


def test_gradient_by_hand() -> None:
    # 2 * 0.1 * h / 2.
    features = torch.tensor([[1.0, -2.0], [3.0, 0.0]], requires_grad=True)
    feature_norm_penalty([features], 0.1).backward()
    torch.testing.assert_close(features.grad, torch.tensor([[0.1, -0.2], [0.3, 0.0]]))


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_a_penalty_found_by_hooks(case: str, layers: str) -> None:
    treated, plain = build(case, coefficient=0.3, layers=layers), build(case, treated=False)
    paths = CASES[case][3] + (CASES[case][4] if layers == "all" else [])
    for step in range(5):
        logs = treated.step(treated.forward(inputs_of(treated, step)).square().mean(), None)
        with outputs_of(plain.network, paths) as seen:
            loss = plain.forward(inputs_of(plain, step)).square().mean()
        penalty = 0.3 * sum((h**2).flatten(1).sum(1).mean() for h in seen)
        assert len(seen) == len(paths)
        torch.testing.assert_close(logs["feature_norm/loss"], torch.as_tensor(penalty).detach())
        plain.step(loss + penalty, None)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)


def test_the_norm_falls() -> None:
    part = build(coefficient=1.0)
    norms = [float(part.step(part.forward(inputs_of(part, 0)).sum() * 0.0, None)["feature_norm/loss"]) for _ in range(60)]
    assert norms[-1] < 0.1 * norms[0]


def test_dead_layers_and_single_examples() -> None:
    part = build(coefficient=1.0, layers="all")
    with torch.no_grad():
        for layer in part.network.units.layers:
            part.network.tensor(layer.weight.tensor).zero_()
            part.network.tensor(layer.weight.tensor.replace("weight", "bias")).fill_(-1.0)
    logs = part.step(part.forward(inputs_of(part, 0, count=1)).sum(), None)
    assert float(logs["feature_norm/loss"]) == 0.0
    assert all(value.isfinite().all() for value in part.network.parameters())


def test_no_strength_is_absence() -> None:
    treated, plain = build(coefficient=0.0), build(treated=False)
    for step in range(3):
        assert treated.step(treated.forward(inputs_of(treated, step)).sum(), None) == {}
        plain.step(plain.forward(inputs_of(plain, step)).sum(), None)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coefficient": -1.0}, r"feature_norm\.coefficient=-1\.0 must be at least 0"),
        ({"layers": "first"}, r"feature_norm\.layers=first is unknown; choose from last, all"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureNorm(**settings)
