import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec

Build = Callable[..., Network]


def test_forward_by_hand(build: Build) -> None:
    network = build((2,), HeadSpec("q", 1), widths=[2])
    values = {
        "torso.layers.dense_1.linear.weight": [[1.0, 0.0], [1.0, -1.0]],
        "torso.layers.dense_1.linear.bias": [0.0, -4.0],
        "head.linear.weight": [[2.0, 3.0]],
        "head.linear.bias": [10.0],
    }
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    # z = (1, 1 + 2 - 4) = (1, -1), h = (1, 0), output 2 + 10; then z = (5, 5 + 1 - 4), output 2 * 5 + 3 * 2 + 10.
    assert network(torch.tensor([[1.0, -2.0], [5.0, -1.0]])).tolist() == [[12.0], [26.0]]


def test_every_network_maps_its_inputs(case: Any) -> None:
    network = case.build()
    outputs = network(case.inputs())
    assert outputs.shape == (6, *shape_of(case))
    assert outputs.isfinite().all()
    whole = case.head.second is not None or case.dtype == torch.int64
    values = shape_of(case) if whole else shape_of(case)[:1]
    assert network.decode(outputs).shape == (6, *values)
    for member in getattr(network, "networks", (network,)):
        tokens = case.input_shape if case.dtype == torch.int64 else ()
        assert member.features(case.inputs()).shape == (6, *tokens, member.torso.features)


def shape_of(case: Any) -> tuple[int, ...]:
    columns = {"gaussian": 2, "squashed_gaussian": 2}.get(case.head.kind, 1) * case.head.outputs
    if case.dtype == torch.int64:  # one output for each token
        return (*case.input_shape, columns)
    if case.head.second is not None:  # both flattened, side by side
        return (columns + case.head.second.outputs * max(1, case.head.second.bins),)
    return (columns * case.members, case.head.bins) if case.head.kind == "categorical" else (columns * case.members,)


def test_features_are_the_last_post_activations(case: Any) -> None:
    network = case.build()
    for member in getattr(network, "networks", (network,)):
        with member.taps.record():
            features = member.eval().features(case.inputs())  # what the head reads in training may be masked
        excluded = [units.name for units in member.units.excluded]
        last = excluded[-1] if excluded else member.torso.hidden[-1].name
        if excluded or member.torso.hidden[-1].pool == 1:
            post = member.taps.post[last]
            expected = post.mean((2, 3)) if last.endswith("_sum") else post.flatten(1)
            assert torch.equal(features.flatten(0, -2), expected)


def test_nature_cnn_has_the_published_sizes(cases: dict[str, Any]) -> None:
    network = cases["nature_cnn"].build()
    shapes = {name: tuple(value.shape) for name, value in network.weights().items()}
    assert list(shapes.values()) == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (6, 512)]
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_687_206


def test_bytes_are_divided_by_255_and_floats_are_not(build: Build) -> None:
    network = build((2,), widths=[4])
    pixels = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8)
    torch.testing.assert_close(network(pixels), network(torch.tensor([[0.0, 1.0], [0.2, 0.4]])))
    assert not torch.equal(network(pixels), network(pixels.float()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.float16])
def test_inputs_take_the_precision_of_the_weights(build: Build, dtype: torch.dtype) -> None:
    inputs = torch.tensor([[1.0, -2.0, 3.0]])
    network = build()
    assert torch.equal(network(inputs.to(dtype)), network(inputs))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_a_network_in_double_precision_computes_in_double_precision(build: Build, dtype: torch.dtype) -> None:
    network = build()
    exact = copy.deepcopy(network).double()
    inputs = torch.tensor([[1.0, 2.0, 3.0]]).to(dtype)
    assert exact(inputs).dtype == torch.float64
    torch.testing.assert_close(exact(inputs).float(), network(inputs))


def test_a_network_without_hidden_layers_is_its_head(build: Build) -> None:
    for shape in [(3,), (1, 2, 2)]:
        network = build(shape, widths=[])
        x = torch.randn(4, *shape)
        assert torch.equal(network(x), network.head.linear(x.flatten(1)))
        assert network.units.layers == ()
        assert [block.name for block in network.blocks] == ["head"]


def test_two_hot_by_hand() -> None:
    network = build_network(MLPSpec(widths=[]), (1,), torch.float32, HeadSpec("categorical", 2, 3, -1.0, 1.0), 0)
    assert network.tensor("head.atoms").tolist() == [-1.0, 0.0, 1.0]
    assert network.head.linear.weight.shape == (6, 1)
    logits = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 50.0]]])
    assert network.head.decode(logits)[0].tolist() == pytest.approx([0.0, 1.0])
    third = torch.tensor([[[0.5, 0.25, 0.25]]]).log()
    assert network.head.decode(third).item() == pytest.approx(-0.25)


def test_tensor_finds_every_parameter_and_buffer(case: Any) -> None:
    network = case.build()
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert all(network.tensor(name) is value for name, value in named.items())
    with pytest.raises(AttributeError):
        network.tensor("torso.layers.dense_99.linear.weight")


def test_every_parameter_has_an_initial_distribution_and_one_block(case: Any) -> None:
    network = case.build()
    parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
    assert set(network.initialisers) == set(parameters)
    assert sorted(name for block in network.blocks for name in block.parameters) == sorted(parameters)
    listed = sorted(name for block in network.blocks for name in block.buffers)
    outside = {name for name in buffers if name.endswith("dropout.words") or (case.head.dueling and name == "head.atoms")}
    assert listed == sorted(buffers.keys() - outside)  # random numbers of the run, and a constant
    layers = [name.rpartition(".")[2] for name in network.units.names if case.members == 1 or name.startswith("0.")]
    names = [name.replace("value", "streams") for name in layers if not name.startswith("advantage")]
    assert [block.name for block in network.blocks if block.name not in ("embed", "stem")] == [*names, "head"]


def test_weights_are_those_of_linear_maps(build: Build) -> None:
    network = build((1, 5, 5), torso="conv", channels=[2], widths=[3], normalisation=["layer", "batch"])
    assert list(network.weights()) == [
        "torso.layers.conv_1.linear.weight",
        "torso.layers.dense_1.linear.weight",
        "head.linear.weight",
    ]
    norms = {name for name, _ in network.named_parameters() if ".norms." in name}
    assert network.norm_parameters == norms
    assert len(norms) == 8


def test_the_mode_reaches_what_depends_on_it(build: Build) -> None:
    network = build(widths=[4], normalisation=["batch"])
    for mode in (False, True):
        assert network.train(mode) is network
        assert {module.training for module in network.modules()} == {mode}


def test_a_network_without_modes_is_the_same_function_in_both(build: Build) -> None:
    network = build(widths=[4], normalisation=["layer"])
    x = torch.randn(3, 3)
    assert torch.equal(network.train()(x), network.eval()(x))
    assert not network.training
    assert not any(isinstance(module, nn.Dropout) for module in network.modules())


def test_a_copy_shares_no_tensor(case: Any) -> None:
    network = case.build()
    target = copy.deepcopy(network)
    addresses = {value.data_ptr() for value in network.state_dict().values()}
    assert addresses.isdisjoint(value.data_ptr() for value in target.state_dict().values())
    network.eval(), target.eval()
    assert torch.equal(network(case.inputs()), target(case.inputs()))
