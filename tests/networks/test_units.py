"""The unit graph, checked by what the network does and not by how the graph is written."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.networks.network import Network
from plasticity.networks.units import UnitGraph, UnitLayer, UnitSlice


def probed(layer: UnitLayer) -> list[int]:
    """All units of a small layer, the ends and the middle of a large one."""
    return list(range(layer.units)) if layer.units < 10 else [0, layer.units // 2, layer.units - 1]


def path_of(layer: UnitLayer) -> str:
    """Path of the hidden layer's module, which also holds its activation."""
    return layer.weight.tensor.removesuffix(".linear.weight")


def one_hot(layer: UnitLayer, unit: int) -> Tensor:
    return torch.arange(layer.units) == unit


def units_of(network: Network) -> Iterator[tuple[UnitLayer, int]]:
    return ((layer, unit) for layer in network.units.layers for unit in probed(layer))


def tapped(network: Network, inputs: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    with torch.no_grad(), network.taps.record():
        network(inputs)
    return dict(network.taps.pre), dict(network.taps.post)


def unsettled(network: Network) -> Network:
    """Evaluation mode, with buffers and normalisation away from their initial values, and noise that stays."""
    generator = torch.Generator().manual_seed(1)
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if value.is_floating_point() and any(word in name for word in (".norms.", ".balance.", ".before.")):
            value.data.add_(torch.rand(value.shape, generator=generator) * 0.2)
    for layer in network.noisy_layers:
        layer.noise = (torch.randn(layer.in_features, generator=generator), torch.randn(layer.out_features, generator=generator))
    return network.eval()


@torch.no_grad()
def test_the_incoming_slices_of_a_unit_move_that_unit_alone(case: Any) -> None:
    network = unsettled(case.build())
    inputs = case.inputs(3)
    pre, post = tapped(network, inputs)
    for layer, unit in units_of(network):
        slices = [*layer.weights, *layer.biases, *(norm.slice for norm in layer.norms)]
        for slice_ in slices:
            tensor = network.tensor(slice_.tensor)
            before = tensor.clone()
            tensor.add_(slice_.mask(one_hot(layer, unit), tensor) * 0.5)
            moved, moved_post = tapped(network, inputs)
            tensor.copy_(before)
            changed = (moved[layer.name] != pre[layer.name]).transpose(0, 1).flatten(1).any(1)
            still = "firing_rate" in slice_.tensor or ".learned." in slice_.tensor  # the latter is behind the pre-activation
            assert changed.nonzero().flatten().tolist() == ([] if still else [unit]), slice_.tensor
            channels = (moved_post[layer.name] != post[layer.name]).transpose(0, 1).flatten(1).any(1).nonzero().flatten().tolist()
            assert set(channels) <= {copy * layer.units + unit for copy in range(layer.copies)}


@torch.no_grad()
def test_without_its_outgoing_slices_a_unit_is_not_there(case: Any) -> None:
    network = unsettled(case.build())
    inputs = case.inputs(3)
    plain = network(inputs)
    seen = 0
    for layer, unit in units_of(network):
        channels = [copy * layer.units + unit for copy in range(layer.copies)]
        hook = network.get_submodule(path_of(layer)).register_forward_hook(
            lambda module, args, output, channels=channels: output.index_fill(1, torch.tensor(channels), 0.0)
        )
        silenced = network(inputs)
        hook.remove()
        outgoing = [slice_ for consumer in layer.consumers for slice_ in consumer.slices]
        weights = [network.tensor(slice_.tensor) for slice_ in outgoing]
        before = [weight.clone() for weight in weights]
        for slice_, weight in zip(outgoing, weights, strict=True):
            weight.masked_fill_(slice_.mask(one_hot(layer, unit), weight), 0.0)
        cut = network(inputs)
        incoming = network.tensor(layer.weight.tensor)
        kept = incoming.clone()
        incoming.add_(layer.weight.mask(one_hot(layer, unit), incoming) * 3.0)
        assert torch.equal(network(inputs), cut), (layer.name, unit)
        incoming.copy_(kept)
        for weight, value in zip(weights, before, strict=True):
            weight.copy_(value)
        torch.testing.assert_close(cut, silenced, rtol=1e-6, atol=1e-6)
        seen += int(not torch.equal(cut, plain))
    assert seen > 0  # some unit was active, or the comparison shows nothing


def test_every_entry_along_the_axis_belongs_to_one_unit(case: Any) -> None:
    network = case.build()
    for layer in network.units.layers:
        outgoing = [slice_ for reader in layer.consumers for slice_ in reader.slices]
        for slice_ in [*layer.weights, *layer.biases, *(norm.slice for norm in layer.norms), *outgoing]:
            tensor = network.tensor(slice_.tensor)
            owners = torch.stack([slice_.mask(one_hot(layer, unit), tensor).flatten() for unit in range(layer.units)]).sum(0)
            assert owners.shape == (tensor.shape[slice_.axis],)
            assert (owners == 1).all(), slice_.tensor


def test_all_per_unit_tensors_of_a_layer_are_listed(case: Any) -> None:
    network = case.build()
    owned = {block.name: {*block.parameters, *block.buffers} for block in network.blocks}
    for layer in network.units.layers:
        own = {name for names in owned.values() for name in names if name.startswith(f"{path_of(layer)}.")}
        listed = {slice_.tensor for slice_ in (*layer.weights, *layer.biases, *(norm.slice for norm in layer.norms))}
        of_the_layer = {name for name in own if name.endswith(("numerator", "denominator"))}
        assert listed == {name for name in own if network.tensor(name).ndim > 0} - of_the_layer


@torch.no_grad()
def test_per_unit_equals_naive_loops(case: Any) -> None:
    network = case.build()
    for layer in network.units.layers:
        for slice_ in [layer.weight, *layer.biases, *(reader.weight for reader in layer.consumers)]:
            tensor = network.tensor(slice_.tensor)
            rows = slice_.per_unit(tensor)
            assert rows.shape[0] == layer.units
            for unit in probed(layer):
                indices = [offset + unit * slice_.span + step for offset in slice_.offsets for step in range(slice_.span)]
                naive = torch.stack([tensor.select(slice_.axis, index) for index in indices])
                assert torch.equal(rows[unit].sort().values, naive.flatten().sort().values)


@torch.no_grad()
def test_reach_is_what_a_constant_activation_adds(case: Any) -> None:
    network = case.build()
    for layer in network.units.layers:
        for reader in layer.consumers:
            module = network.get_submodule(reader.weight.tensor.rpartition(".")[0])
            constants = torch.arange(1.0, layer.units * layer.copies + 1) / layer.units
            expected = reader.weight.reach(module.weight) @ constants
            bias = network.tensor(reader.bias) if reader.bias else torch.zeros(())
            if isinstance(module, nn.Conv2d):
                image = constants.view(1, -1, 1, 1).expand(1, -1, *module.kernel_size)
                added = functional.conv2d(image, module.weight, stride=module.stride).flatten()
            else:
                added = module(constants.repeat_interleave(reader.weight.span)) - bias
            torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-4)


def test_mask_by_hand() -> None:
    chosen = torch.tensor([True, False])
    rows = UnitSlice("w", 0, 2).mask(chosen, torch.empty(2, 5))
    assert rows.tolist() == [[True], [False]]
    kernel = UnitSlice("w", 1, 2).mask(chosen, torch.empty(4, 2, 3, 3))
    assert kernel.shape == (1, 2, 1, 1)
    flattened = UnitSlice("w", 1, 2, span=3).mask(chosen, torch.empty(4, 6))
    assert flattened.tolist() == [[True, True, True, False, False, False]]
    crelu = UnitSlice("w", 1, 2, offsets=(0, 4), span=2).mask(chosen, torch.empty(4, 8))
    assert crelu.tolist() == [[True, True, False, False, True, True, False, False]]
    part = UnitSlice("w", 0, 2, offsets=(1,)).mask(chosen, torch.empty(4))  # units that fill only a part of the axis
    assert part.tolist() == [False, True, False, False]
    head_of_wider = UnitSlice("w", 0, 2).mask(chosen, torch.empty(3))
    assert head_of_wider.tolist() == [True, False, False]


def test_per_unit_and_reach_by_hand() -> None:
    weight = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8], [10.0, 20, 30, 40, 50, 60, 70, 80]])
    crelu = UnitSlice("w", 1, 2, offsets=(0, 4), span=2)  # units own columns 0 1 4 5 and 2 3 6 7
    assert crelu.per_unit(weight).sort(1).values.tolist() == [[1, 2, 5, 6, 10, 20, 50, 60], [3, 4, 7, 8, 30, 40, 70, 80]]
    assert crelu.reach(weight).tolist() == [[3, 7, 11, 15], [30, 70, 110, 150]]
    kernel = torch.arange(12.0).view(1, 3, 2, 2)
    assert UnitSlice("w", 1, 3).reach(kernel).tolist() == [[6, 22, 38]]


def test_layers_are_found_by_name(cases: dict[str, Any]) -> None:
    units = cases["conv_conv_head"].build().units
    assert units.names == ("conv_1", "conv_2")
    assert units["conv_2"].units == 4
    with pytest.raises(KeyError, match="no unit layer dense_1; there are conv_1, conv_2"):
        units["dense_1"]
    with pytest.raises(KeyError, match="no unit layer dense_1; there are none"):
        UnitGraph(())["dense_1"]
