"""Resetting units that are exactly dead leaves the network's function as it was, bit for bit.

Bit for bit, because a dead unit's activation is exactly 0 and a reset unit's outgoing weights are exactly 0: before and after,
the sums that make the outputs contain a term of exactly 0 at the same place, and no other term changes.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.networks.units import UnitLayer

DEAD = [1, 3]


def mask(layer: UnitLayer) -> Tensor:
    chosen = torch.zeros(layer.units, dtype=torch.bool)
    chosen[DEAD] = True
    return chosen


@torch.no_grad()
def kill(network: Any, layer: UnitLayer) -> None:
    """Makes the units' activations 0 on every input: z far below 0 for a relu; z = 0 for CReLU, which has no other zero."""
    slices = [(layer.weight, 0.0)] if layer.copies == 2 else []
    slices.append((layer.bias, 0.0 if layer.copies == 2 else -1e4))
    norm_biases = [norm.slice for norm in layer.norms if norm.slice.tensor.endswith("bias")]
    slices += [(slice_, -1e4) for slice_ in norm_biases]
    for slice_, value in slices:
        tensor = network.tensor(slice_.tensor)
        tensor.masked_fill_(slice_.mask(mask(layer), tensor), value)


def layers_of(network: Any) -> tuple[UnitLayer, ...]:
    return network.units.layers


def test_the_units_are_dead_before_and_alive_after(admit: Any) -> None:
    patient = admit("mlp")
    layer = patient.network.units["dense_1"]
    kill(patient.network, layer)
    with patient.network.taps.record():
        patient.outputs()
        assert not patient.network.taps.post["dense_1"][:, DEAD].any()
        reset_units(patient.network, patient.optimizer, {"dense_1": mask(layer)}, ResetPolicy(), patient.generator)
        patient.outputs()
        assert patient.network.taps.post["dense_1"][:, DEAD].any(0).all()


def test_one_layer_at_a_time(patient: Any) -> None:
    for layer in layers_of(patient.network):
        kill(patient.network, layer)
        before = patient.outputs()
        count = reset_units(patient.network, patient.optimizer, {layer.name: mask(layer)}, ResetPolicy(), patient.generator)
        assert count == len(DEAD)
        assert torch.equal(patient.outputs(), before)


def test_all_layers_at_once(patient: Any) -> None:
    for layer in layers_of(patient.network):
        kill(patient.network, layer)
    before = patient.outputs()
    masks = {layer.name: mask(layer) for layer in layers_of(patient.network)}
    count = reset_units(patient.network, patient.optimizer, masks, ResetPolicy(), patient.generator)
    assert count == len(DEAD) * len(masks)
    assert torch.equal(patient.outputs(), before)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_order_of_the_masks_does_not_matter_to_the_function(admit: Any, backwards: bool) -> None:
    patient = admit("mlp")
    names = sorted(patient.network.units.names, reverse=backwards)
    for name in names:
        kill(patient.network, patient.network.units[name])
    before = patient.outputs()
    masks = {name: mask(patient.network.units[name]) for name in names}
    reset_units(patient.network, patient.optimizer, masks, ResetPolicy(), patient.generator)
    assert torch.equal(patient.outputs(), before)
    between = patient.network.tensor("torso.layers.dense_2.linear.weight")
    assert not between[:, DEAD].any()  # also where the row was drawn again
    assert between[DEAD][:, [0, 2, 4, 5]].all()


def test_living_units_do_change_the_function(patient: Any) -> None:
    before = patient.outputs()
    masks = {layer.name: torch.ones(layer.units, dtype=torch.bool) for layer in layers_of(patient.network)}
    reset_units(patient.network, patient.optimizer, masks, ResetPolicy(), patient.generator)
    assert not torch.equal(patient.outputs(), before)


def test_both_heads_forget_a_reset_unit(admit: Any) -> None:
    patient = admit("two_heads")
    reset_units(
        patient.network, patient.optimizer, {"shared": mask(layers_of(patient.network)[0])}, ResetPolicy(), patient.generator
    )
    for head in (patient.network.policy, patient.network.value):
        assert not head.weight[:, DEAD].any()
        assert head.weight[:, [0, 2, 4, 5]].all()


def test_the_residual_stream_keeps_its_weights(admit: Any) -> None:
    patient = admit("residual_block")
    before = patient.values()
    reset_units(
        patient.network, patient.optimizer, {"inner": mask(layers_of(patient.network)[0])}, ResetPolicy(), patient.generator
    )
    after = patient.values()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"inner.weight", "inner.bias", "outer.weight"}
    with pytest.raises(KeyError, match="no unit layer stream; there are inner"):
        reset_units(patient.network, patient.optimizer, {"stream": torch.ones(4).bool()}, ResetPolicy(), patient.generator)


def test_compensating_the_bias_keeps_the_function_of_a_constant_unit(admit: Any) -> None:
    """The consumers' description is enough to move a unit's constant activation into their biases, in every kind of network."""
    for name in ("mlp", "conv_conv_flatten_dense", "two_heads", "transformer_mlp", "conv_head"):
        patient = admit(name)
        for layer in layers_of(patient.network):
            with torch.no_grad():
                weight, bias = (patient.network.tensor(slice_.tensor) for slice_ in (layer.weight, layer.bias))
                weight.masked_fill_(layer.weight.mask(mask(layer), weight), 0.0)
                bias.masked_fill_(mask(layer), 2.0)  # h = 2 at every position
                before = patient.outputs()
                for consumer in layer.consumers:
                    added = consumer.weight.reach(patient.network.tensor(consumer.weight.tensor)) @ (2.0 * mask(layer))
                    patient.network.tensor(consumer.bias).add_(added)
            reset_units(patient.network, patient.optimizer, {layer.name: mask(layer)}, ResetPolicy(), patient.generator)
            torch.testing.assert_close(patient.outputs(), before, rtol=1e-5, atol=1e-5)
