from typing import Any

import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.weight_clipping import WeightClipping, clip_weights, clipping_bounds
from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.residual import SimbaSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

NOISY = HeadSpec("q", 2, dueling=True, stream_widths=(4,), noise_deviation=0.5)
SPECS = {
    "mlp": (MLPSpec(widths=[5, 4], normalisation=["layer"]), (3,), HeadSpec("regression", 2), 1),
    "conv": (ConvSpec(widths=[4], channels=[3], activations=["pelu"]), (1, 5, 5), NOISY, 1),
    "ensemble": (MLPSpec(widths=[5, 4]), (3,), HeadSpec("value", 1), 2),
    "simba": (SimbaSpec(widths=[4]), (3,), HeadSpec("gaussian", 2), 1),
    "resnet": (ResNetSpec(widths=[], channels=[4, 6], normalisation=["batch"]), (3, 8, 8), HeadSpec("q", 2), 1),
}


def build(layout: str, treated: bool = True, **settings: Any) -> Updater:
    spec, inputs, head, members = SPECS[layout]
    methods = {"weight_clipping": lambda: WeightClipping(**settings)} if treated else {}
    make = PartBuilder(spec, inputs, torch.float32, OptimizerSettings("adam", 0.05), methods)
    return make("q", head, members=members)


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.step((part.forward(inputs) - 1).square().mean(), None)


def naive(network: Network, factor: float) -> dict[str, float]:
    """Bounds by module: every linear map or convolution, its weight and its bias."""
    bounds = {}
    for path, module in network.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and not path.endswith("_first"):
            inputs = module.weight.shape[1] * (module.kernel_size[0] ** 2 if isinstance(module, torch.nn.Conv2d) else 1)
            for name in ("weight", "bias"):
                if getattr(module, name) is not None:
                    bounds[f"{path}.{name}"] = factor / inputs**0.5
    return bounds


def test_clipping_by_hand() -> None:
    tensors = [torch.tensor([[3.0, -0.5], [-3.0, 2.0]]), torch.tensor([1.0])]
    clip_weights(tensors, [2.0, 0.25])
    assert [tensor.tolist() for tensor in tensors] == [[[2.0, -0.5], [-2.0, 2.0]], [0.25]]


def test_bounds_by_hand() -> None:
    # 4 / sqrt(16): inputs of the dense map; 4 / sqrt(1 * 2 * 2) of the convolution, whose bias has the same.
    spec = ConvSpec(widths=[], channels=[4], kernel_sizes=[2])
    network = build_network(spec, (1, 3, 3), torch.float32, HeadSpec("q", 2), 0)
    tensors, bounds = clipping_bounds(network, 4.0, clip_head=True)
    assert [tuple(value.shape) for value in tensors] == [(4, 1, 2, 2), (4,), (2, 16), (2,)]
    assert bounds == [2.0, 2.0, 1.0, 1.0]
    assert clipping_bounds(network, 4.0, clip_head=False)[1] == [2.0, 2.0]


@pytest.mark.parametrize("layout", SPECS)
def test_against_plain_arithmetic(layout: str) -> None:
    part, plain = build(layout, factor=0.6), build(layout, treated=False)
    bounds = naive(plain.network, 0.6)
    cut = 0
    for step in range(5):
        update(part, step)
        update(plain, step)
        with torch.no_grad():
            for name, value in plain.network.named_parameters():
                if name in bounds:
                    cut += int((value.abs() > bounds[name]).sum())
                    value.copy_(value.clamp(-bounds[name], bounds[name]))
        for (name, value), other in zip(part.network.named_parameters(), plain.network.parameters(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-7, msg=name)
    assert cut > 0


def test_the_head_may_be_left_alone() -> None:
    part = build("mlp", factor=1e-3, clip_head=False)
    update(part)
    assert part.network.tensor("head.linear.weight").abs().max() > 0.1
    assert part.network.tensor("torso.layers.dense_1.linear.weight").abs().max() <= 1e-3


def test_normalisation_and_noise_are_exempt() -> None:
    for layout, name in (("mlp", "torso.layers.dense_1.norms.0.weight"), ("conv", "torso.layers.conv_1.learned.height")):
        part = build(layout, factor=1e-3)
        update(part)
        assert part.network.tensor(name).min() > 0.5
    assert part.network.tensor("head.value.weight_deviation").abs().max() > 0.1


def test_a_large_factor_changes_nothing() -> None:
    part, plain = build("conv", factor=1e9), build("conv", treated=False)
    for step in range(3):
        update(part, step)
        update(plain, step)
    assert all(torch.equal(a, b) for a, b in zip(part.network.parameters(), plain.network.parameters(), strict=True))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"weight_clipping\.factor=0 must be at least 1e-06"):
        WeightClipping(factor=0)
