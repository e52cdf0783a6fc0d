from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.networks.factory import build_network
from plasticity.networks.layers.injection import injections
from plasticity.networks.layers.noisy import fresh_noise
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.hyperspherical import SimbaV2Spec
from plasticity.networks.torsos.residual import BroSpec, SimbaSpec
from plasticity.networks.torsos.resnet import ResNetSpec

ATOMS: dict[str, Any] = {"bins": 5, "low": -1.0, "high": 1.0}
PAIR = HeadSpec("gaussian", 2, second=HeadSpec("categorical", 1, **ATOMS))
RAINBOW = HeadSpec("categorical", 3, **ATOMS, dueling=True, stream_widths=(5,), noise_deviation=0.5)
CREDIT = ConvSpec(widths=[6, 5], channels=[4], activations=["crelu"], normalisation=["batch"])
RESNET = ResNetSpec(widths=[], channels=[4, 6], residual_blocks=1, normalisation=["batch"])
# spec, input shape, head, members, layers
CASES: dict[str, tuple[NetworkSpec, tuple[int, ...], HeadSpec, int, int]] = {
    "mlp": (MLPSpec(widths=[6, 5]), (3,), HeadSpec("q", 4), 1, 2),
    "mlp_all": (MLPSpec(widths=[6, 5], normalisation=["layer"]), (3,), HeadSpec("q", 4), 1, 3),
    "conv_dense": (CREDIT, (1, 6, 6), HeadSpec("categorical", 3, **ATOMS), 1, 3),
    "conv_conv": (ConvSpec(widths=[6], channels=[4, 3], pools=[2, 1]), (1, 12, 12), HeadSpec("policy", 3), 1, 3),
    "conv_head": (ConvSpec(widths=[], channels=[4, 3]), (1, 8, 8), HeadSpec("q", 3), 1, 2),
    "rainbow": (ConvSpec(widths=[], channels=[4]), (1, 6, 6), RAINBOW, 1, 2),
    "rainbow_deep": (ConvSpec(widths=[6], channels=[4]), (1, 6, 6), RAINBOW, 1, 3),
    "paired": (MLPSpec(widths=[6, 5]), (3,), PAIR, 1, 2),
    "squashed": (MLPSpec(widths=[6, 5]), (3,), HeadSpec("squashed_gaussian", 2), 1, 2),
    "ensemble": (MLPSpec(widths=[6, 5]), (3,), HeadSpec("value", 1), 2, 2),
    "simba": (SimbaSpec(widths=[6]), (3,), HeadSpec("value", 1), 2, 2),
    "simba_v2": (SimbaV2Spec(widths=[6]), (3,), HeadSpec("value", 1), 2, 2),
    "bro": (BroSpec(widths=[6], expansion=1), (3,), HeadSpec("value", 1), 1, 3),
    "resnet": (RESNET, (3, 8, 8), HeadSpec("classification", 4), 1, 2),
}


def build(case: str, injected: bool = True) -> Network:
    spec, shape, head, members, layers = CASES[case]
    return build_network(replace(spec, injected_layers=layers if injected else 0), shape, torch.float32, head, 0, members)


def inputs_for(network: Network, seed: int = 0) -> Tensor:
    return torch.randn(32, *network.input_shape, generator=torch.Generator().manual_seed(seed))


def inject(network: Network, seed: int = 7) -> None:
    for own, other in zip(injections(network), injections(network.fresh(seed)), strict=True):
        own.inject(other)


def train(network: Network, steps: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    network.train()
    for step in range(steps):
        optimizer.zero_grad()
        with fresh_noise(network.noisy_layers, torch.Generator().manual_seed(step)):
            (network(inputs_for(network, step)) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("case", CASES)
def test_before_the_injection_it_is_the_plain_network(case: str) -> None:
    network, plain = build(case), build(case, injected=False)
    own, other = dict(network.named_parameters()), dict(plain.named_parameters())
    assert own.keys() == other.keys()
    train(network, 2)
    train(plain, 2)
    assert all(torch.equal(own[name], other[name]) for name in own)
    network.eval()
    plain.eval()
    assert torch.equal(network(inputs_for(network)), plain(inputs_for(plain)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_injection_leaves_the_outputs_exactly_as_they_were(case: str, bf16: bool, training: bool) -> None:
    network = build(case)
    train(network, 2)
    network.train(training)
    old = network.tensor(injected := next(name for name in network.weights() if "head" in name)).detach().clone()
    with fresh_noise(network.noisy_layers, torch.Generator().manual_seed(1)):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            before = network(inputs_for(network))
        inject(network)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            after = network(inputs_for(network))
    assert torch.equal(before, after)
    assert not torch.equal(network.tensor(injected), old)


@pytest.mark.parametrize("case", CASES)
def test_afterwards_the_network_learns_and_its_companions_do_not(case: str) -> None:
    network = build(case)
    inject(network)
    trained = {name for name, _ in network.named_parameters()}
    companions = [f"{kind}_" for kind in ("frozen", "fresh")]
    held = {
        name: value.clone()
        for name, value in network.named_buffers()
        if any(f"injection.{kind}" in name for kind in companions) and not name.endswith(("_mean", "_var", "_tracked"))
    }
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    train(network, 3)
    assert held
    assert all(torch.equal(dict(network.named_buffers())[name], value) for name, value in held.items())
    assert {name for name, _ in network.named_parameters()} == trained
    weights = [name for name in network.weights() if "conv" not in name]
    assert all(not torch.equal(network.tensor(name), before[name]) for name in weights)


def test_training_equals_three_heads_written_out() -> None:
    network = build("mlp")
    train(network, 2)
    names = ("dense_2.linear.weight", "dense_2.linear.bias", "weight", "bias")
    paths = [f"torso.layers.{name}" if "dense" in name else f"head.linear.{name}" for name in names]
    frozen = [network.tensor(path).detach().clone() for path in paths]
    first = [network.tensor(f"torso.layers.dense_1.linear.{key}").detach().clone().requires_grad_() for key in ("weight", "bias")]
    inject(network)
    live = [network.tensor(path).detach().clone().requires_grad_() for path in paths]
    fresh = [value.detach().clone() for value in live]
    assert not any(torch.equal(a, b) for a, b in zip(frozen, live, strict=True))

    def head(features: Tensor, values: list[Tensor]) -> Tensor:
        return functional.linear(functional.linear(features, values[0], values[1]).relu(), values[2], values[3])

    optimizers = [torch.optim.SGD(values, lr=0.1) for values in (network.parameters(), [*first, *live])]
    for step in range(5):
        x = inputs_for(network, 20 + step)
        features = functional.linear(x, *first).relu()
        outputs = [network(x), head(features, frozen) + head(features, live) - head(features, fresh)]
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
        for optimizer, output in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            (output - 1).square().mean().backward()
            optimizer.step()
    for path, value in zip([*paths, "torso.layers.dense_1.linear.weight"], [*live, first[0]], strict=True):
        torch.testing.assert_close(network.tensor(path), value, rtol=1e-4, atol=1e-5)


def test_copies_freeze_their_own_head_and_take_over_a_whole_state() -> None:
    network = build("conv_dense")
    target = deepcopy(network)
    train(network, 3)
    network.eval()
    target.eval()
    x = inputs_for(network)
    before = target(x)
    fresh = injections(network.fresh(3))[0]
    for each in (network, target):
        injections(each)[0].inject(fresh)
    assert torch.equal(target(x), before)
    assert not torch.equal(target(x), network(x))
    target.load_state_dict(network.state_dict())
    assert torch.equal(target(x), network(x))
    assert injections(deepcopy(target))[0].active.on


@pytest.mark.parametrize("case", ["mlp", "conv_dense", "conv_head", "rainbow", "ensemble"])
def test_companions_read_the_units_that_enter(case: str) -> None:
    network, plain = build(case), build(case, injected=False)
    inject(network)
    network.eval()
    x = inputs_for(network)
    before = network(x)
    for layer, without in zip(network.units.layers, plain.units.layers, strict=True):
        assert [replace(reader, companions=()) for reader in layer.consumers] == list(without.consumers)
        assert all(len(reader.companions) in (0, 2 * len(replace(reader, companions=()).slices)) for reader in layer.consumers)
        # A unit that no map reads has no effect, for any input.
        with torch.no_grad():
            for reader in layer.consumers:
                for columns in reader.slices:
                    tensor = network.tensor(columns.tensor)
                    tensor.masked_fill_(columns.mask(torch.arange(layer.units) == 1, tensor), 0.0)
        silent = network(x)
        with torch.no_grad():
            network.tensor(layer.weight.tensor)[1] += 3.0
        torch.testing.assert_close(network(x), silent, rtol=1e-5, atol=1e-6)
    assert not torch.equal(before, silent)
    names = [layer.name for layer in network.units.layers if all(reader.companions for reader in layer.consumers)]
    entering = {"mlp": ["dense_1"], "conv_dense": ["conv_1"], "conv_head": ["conv_1"], "rainbow": ["conv_1"]}
    assert names == entering.get(case, ["0.dense_1", "1.dense_1"])


@pytest.mark.parametrize(
    ("spec", "head", "layers", "message"),
    [
        (MLPSpec(widths=[5]), HeadSpec("q", 2), 1, r"injected layers=1 must be from 2, .* to 2"),
        (MLPSpec(widths=[5]), HeadSpec("q", 2), 3, r"injected layers=3 must be from 2, .* to 2"),
        (MLPSpec(widths=[5]), HeadSpec("q", 2, dueling=True, stream_widths=(4, 4)), 2, r"injected layers=2 must be from 3"),
        (MLPSpec(widths=[5], spectral_layers=[1]), HeadSpec("q", 2), 2, "cannot have spectral normalisation"),
    ],
)
def test_refusals(spec: NetworkSpec, head: HeadSpec, layers: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_network(replace(spec, injected_layers=layers), (3,), torch.float32, head, 0)
