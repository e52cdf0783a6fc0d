from typing import Any

import pytest
import torch

from plasticity.interventions.surgery.unit_transfer import (
    compensate,
    copy_incoming,
    split_outgoing,
    transfer_outgoing,
    write_rows,
)
from plasticity.networks.units import UnitSlice


@pytest.mark.parametrize(
    ("slice_", "shape"),
    [
        (UnitSlice("w", 0, 4), (4, 3)),
        (UnitSlice("b", 0, 4), (4,)),
        (UnitSlice("w", 1, 4), (5, 4, 3, 3)),
        (UnitSlice("w", 1, 4, (0,), 3), (5, 12)),
        (UnitSlice("w", 1, 4, (0, 12), 3), (5, 24)),
    ],
)
def test_writing_rows_is_the_inverse_of_reading_them(slice_: UnitSlice, shape: tuple[int, ...]) -> None:
    tensor, other = torch.randn(shape), torch.zeros(shape)
    write_rows(slice_, other, slice_.per_unit(tensor))
    assert torch.equal(other, tensor)


def test_compensating_constant_activations(admit: Any) -> None:
    patient = admit("conv_crelu_flatten_dense")
    layer = patient.network.units["conv_1"]
    lost = torch.arange(1.0, 1 + layer.units * layer.copies)
    weight = patient.network.tensor(layer.consumers[0].weight.tensor).detach()
    before = patient.network.tensor(layer.consumers[0].bias).detach().clone()
    with torch.no_grad():
        compensate(patient.network, layer, lost)
    moved = patient.network.tensor(layer.consumers[0].bias).detach() - before
    expected = torch.nn.functional.conv2d(lost.view(1, -1, 1, 1).expand(1, -1, *weight.shape[2:]), weight).flatten()
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_copies_and_their_shares_leave_the_function(patient: Any) -> None:
    # Unit 1 of every layer is silenced, then copies unit 0 at 0.4 times its activation, and takes its share.
    network = patient.network
    patient.train(0)
    masks = {layer.name: torch.arange(layer.units) == 1 for layer in network.units.layers}
    for layer in network.units.layers:
        for consumer in layer.consumers:
            for slice_ in consumer.slices:
                network.tensor(slice_.tensor).masked_fill_(slice_.mask(masks[layer.name], network.tensor(slice_.tensor)), 0.0)
    if getattr(network, "noisy_layers", ()):
        for layer in network.noisy_layers:  # noise of a row is that row's own
            layer.noise = None
    network.eval()
    before, values = patient.outputs(), patient.values()
    for layer in network.units.layers:
        source = torch.arange(layer.units)
        source[1] = 0
        copy_incoming(network, layer, source, torch.where(masks[layer.name], 0.4, 1.0))
    torch.testing.assert_close(patient.outputs(), before)
    for layer in network.units.layers:
        source = torch.arange(layer.units)
        source[1] = 0
        split_outgoing(network, layer, source, torch.where(masks[layer.name], 0.4, 1.0), patient.generator)
    torch.testing.assert_close(patient.outputs(), before, rtol=1e-4, atol=1e-5)
    moved = {name for name, value in patient.values().items() if not torch.equal(value, values[name])}
    assert {slice_.tensor for layer in network.units.layers for reader in layer.consumers for slice_ in reader.slices} <= moved


def test_shares_by_hand(admit: Any) -> None:
    patient = admit("mlp")
    layer = patient.network.units["dense_2"]
    before = patient.network.tensor("head.linear.weight").detach().clone()
    shares = torch.zeros(5, 5)
    shares[0, 3], shares[0, 4], shares[2, 1] = 2.0, -1.0, 0.5
    with torch.no_grad():
        transfer_outgoing(patient.network, layer, shares)
    after = patient.network.tensor("head.linear.weight").detach()
    torch.testing.assert_close(after[:, 0], before[:, 0] + 2 * before[:, 3] - before[:, 4])
    torch.testing.assert_close(after[:, 2], before[:, 2] + 0.5 * before[:, 1])
    assert torch.equal(after[:, [1, 3, 4]], before[:, [1, 3, 4]])


def test_a_split_divides_each_entry_by_its_own_draw(admit: Any) -> None:
    patient = admit("mlp")
    layer = patient.network.units["dense_2"]
    before = patient.network.tensor("head.linear.weight").detach().clone()
    with torch.no_grad():
        scale = torch.tensor([1.0, 0.5, 1.0, 0.25, 1.0])
        split_outgoing(patient.network, layer, torch.tensor([0, 0, 2, 0, 4]), scale, patient.generator)
    after = patient.network.tensor("head.linear.weight").detach()
    torch.testing.assert_close(after[:, 0] + 0.5 * after[:, 1] + 0.25 * after[:, 3], before[:, 0])
    assert torch.equal(after[:, [2, 4]], before[:, [2, 4]])
    kept = (after / before)[:, 0]
    assert bool(((kept > 0) & (kept < 1)).all())
    assert len(set(kept.tolist())) == 3
