"""What a reset writes, entry by entry, and what it leaves alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.interventions.surgery.resets import INCOMING, OUTGOING, ResetPolicy, reset_units
from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec

WEIGHT, BIAS = "torso.layers.dense_1.linear.weight", "torso.layers.dense_1.linear.bias"
HEAD = "head.linear.weight"
SECOND = {"dense_1": torch.tensor([False, True, False])}


def hand_network() -> Network:
    """Two inputs, three units, two outputs, weights that are easy to tell apart."""
    network = build_network(MLPSpec(widths=[3]), (2,), torch.float32, HeadSpec("q", 2), 0)
    with torch.no_grad():
        network.tensor(WEIGHT).copy_(torch.tensor([[1.0, 2.0], [3.0, -4.0], [5.0, 6.0]]))
        network.tensor(BIAS).copy_(torch.tensor([7.0, -8.0, 9.0]))
        network.tensor(HEAD).copy_(torch.tensor([[10.0, -11.0, 12.0], [13.0, 14.0, 15.0]]))
    return network


def reset(network: Network, initial: dict[str, Tensor] | None = None, **policy: Any) -> Tensor:
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    return reset_units(network, optimizer, SECOND, ResetPolicy(**policy), torch.Generator().manual_seed(0), initial)


KEEP = {"incoming": "keep", "bias": "keep", "outgoing": "keep", "norm": False}


def values(network: Network) -> dict[str, list[Any]]:
    return {name: network.tensor(name).tolist() for name in (WEIGHT, BIAS, HEAD)}


def test_keeping_everything_changes_nothing() -> None:
    network = hand_network()
    before = values(network)
    assert reset(network, **KEEP) == 1
    assert values(network) == before


@pytest.mark.parametrize(
    ("policy", "name", "expected"),
    [
        ({"incoming": "scale", "factor": 0.5}, WEIGHT, [[1, 2], [1.5, -2], [5, 6]]),
        ({"incoming": "zero"}, WEIGHT, [[1, 2], [0, 0], [5, 6]]),
        ({"incoming": "restore"}, WEIGHT, [[1, 2], [21, 22], [5, 6]]),
        ({"bias": "scale", "factor": 2.0}, BIAS, [7, -16, 9]),
        ({"bias": "zero"}, BIAS, [7, 0, 9]),
        ({"bias": "restore"}, BIAS, [7, 24, 9]),
        ({"outgoing": "zero"}, HEAD, [[10, 0, 12], [13, 0, 15]]),
    ],
)
def test_each_policy_by_hand(policy: dict[str, Any], name: str, expected: list[Any]) -> None:
    network = hand_network()
    before = values(network)
    initial = {WEIGHT: torch.tensor([[0.0, 0], [21, 22], [0, 0]]), BIAS: torch.tensor([0.0, 24, 0])}
    reset(network, initial, **{**KEEP, **policy})
    assert values(network) == {**before, name: expected}


@pytest.mark.parametrize(
    ("policy", "name"), [({"incoming": "resample"}, WEIGHT), ({"bias": "resample"}, BIAS), ({"outgoing": "resample"}, HEAD)]
)
def test_resampling_draws_from_the_tensor_s_own_distribution(policy: dict[str, str], name: str) -> None:
    network = hand_network()
    before = values(network)
    reset(network, **{**KEEP, **policy})
    after, axis = network.tensor(name), 1 if name == HEAD else 0
    drawn = after.select(axis, 1)
    assert (drawn.abs() <= network.initialisers[name].scale).all()
    assert drawn.unique().numel() == drawn.numel()
    others = torch.tensor([0, 2])
    assert torch.equal(after.index_select(axis, others), torch.tensor(before[name]).index_select(axis, others))
    assert {key: value for key, value in values(network).items() if key != name} == {k: v for k, v in before.items() if k != name}


def test_resampled_units_follow_their_distribution_in_the_long_run() -> None:
    # kaiming_uniform with fan_in 12 and relu: the bound is sqrt(2) sqrt(3 / 12) = sqrt(1/2), the variance bound^2 / 3 = 1/6.
    network = build_network(MLPSpec(widths=[500], initialiser="kaiming_uniform"), (12,), torch.float32, HeadSpec("q", 2), 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    with torch.no_grad():
        network.tensor(WEIGHT).fill_(9.0)
        network.tensor(BIAS).fill_(9.0)
    everything = {"dense_1": torch.ones(500, dtype=torch.bool)}
    reset_units(network, optimizer, everything, ResetPolicy(), torch.Generator().manual_seed(0))
    weight = network.tensor(WEIGHT)
    assert weight.abs().max() <= 0.5**0.5
    assert weight.square().mean().item() == pytest.approx(1 / 6, rel=0.05)
    assert not network.tensor(BIAS).any()


def test_zeroing_also_ends_what_is_not_finite() -> None:
    network = hand_network()
    with torch.no_grad():
        for name in (WEIGHT, BIAS, HEAD):
            network.tensor(name).copy_(torch.full_like(network.tensor(name), torch.inf))
    reset(network, incoming="zero", bias="zero", outgoing="zero")
    assert network.tensor(WEIGHT)[1].tolist() == [0.0, 0.0]
    assert network.tensor(HEAD)[:, 1].tolist() == [0.0, 0.0]
    assert not network.tensor(WEIGHT)[1].signbit().any()


@pytest.mark.parametrize("field", ["incoming", "bias", "outgoing", "optimizer_state"])
def test_an_unknown_policy_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}=burn is unknown; choose from keep, "):
        ResetPolicy(**{field: "burn"})


@pytest.mark.parametrize("field", ["incoming", "bias"])
def test_restore_needs_the_initial_values(field: str) -> None:
    with pytest.raises(ValueError, match="needs the initial parameter values"):
        reset(hand_network(), **{**KEEP, field: "restore"})


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (torch.ones(2, dtype=torch.bool), r"bool of shape \(2,\)"),
        (torch.ones(6, dtype=torch.bool), r"bool of shape \(6,\)"),
        (torch.ones(3), r"float32 of shape \(3,\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_anything_is_written(mask: Tensor, kind: str) -> None:
    network = hand_network()
    before = values(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    with pytest.raises(
        ValueError, match=rf"^mask of dense_1 is {kind}; give a bool mask of shape \(3,\), one entry for each unit$"
    ):
        reset_units(network, optimizer, {"dense_1": mask}, ResetPolicy(), torch.Generator())
    assert values(network) == before


def test_an_unknown_layer_is_refused() -> None:
    network = hand_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    with pytest.raises(KeyError, match="no unit layer dense_2; there are dense_1"):
        reset_units(network, optimizer, {"dense_2": torch.ones(3).bool()}, ResetPolicy(), torch.Generator())


def test_no_masks_reset_no_units(admit: Any) -> None:
    patient = admit("mlp")
    before = patient.values()
    count = reset_units(patient.network, patient.optimizer, {}, ResetPolicy(), patient.generator)
    assert (count.item(), count.ndim) == (0, 0)
    assert all(torch.equal(value, before[name]) for name, value in patient.values().items())


@pytest.mark.parametrize("incoming", INCOMING)
@pytest.mark.parametrize("outgoing", OUTGOING)
def test_entries_of_other_units_are_bit_identical(patient: Any, incoming: str, outgoing: str) -> None:
    before, masks = patient.values(), patient.every_other()
    initial = {name: torch.full_like(value, 0.25) for name, value in before.items()}
    identity = {name: (id(value), value.data_ptr()) for name, value in patient.network.named_parameters()}
    policy = ResetPolicy(incoming=incoming, bias=incoming, outgoing=outgoing, factor=3.0)
    count = reset_units(patient.network, patient.optimizer, masks, policy, patient.generator, initial)
    assert count == sum(int(mask.sum()) for mask in masks.values())
    touched = patient.touched(masks)
    for name, value in patient.values().items():
        assert torch.equal(value[~touched[name]], before[name][~touched[name]]), name
    assert {name: (id(value), value.data_ptr()) for name, value in patient.network.named_parameters()} == identity


def test_every_touched_weight_is_new(patient: Any) -> None:
    before, masks = patient.values(), patient.every_other()
    policy = ResetPolicy(outgoing="resample")
    reset_units(patient.network, patient.optimizer, masks, policy, patient.generator)
    touched = patient.touched(masks)
    for name, value in patient.values().items():
        if not any(word in name for word in ("norms", "balance", "deviation")):  # which start from constants
            assert (value != before[name])[touched[name]].all(), name


@pytest.mark.parametrize("name", ["mlp_batch_norm_load_balancing", "conv_padded_batch_norm"])
def test_normalisation_of_reset_units_is_fresh_or_kept(admit: Any, name: str) -> None:
    for norm in (True, False):
        patient = admit(name)
        before, masks = patient.values(), patient.every_other()
        policy = ResetPolicy(norm=norm)
        reset_units(patient.network, patient.optimizer, masks, policy, patient.generator)
        fresh = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "firing_rate": 0.5, "offset": 0.0}
        seen = set()
        for layer in patient.network.units.layers:
            for entry in layer.norms:
                tensor = patient.network.tensor(entry.slice.tensor)
                leaf, old = entry.slice.tensor.rpartition(".")[2], before[entry.slice.tensor]
                seen.add(leaf)
                assert torch.equal(tensor[0::2], old[0::2])
                assert tensor[1::2].unique().tolist() == [fresh[leaf]] if norm else torch.equal(tensor, old)
        assert seen >= {"weight", "bias", "running_mean", "running_var"}


def test_a_reset_is_decided_by_its_generator(admit: Any) -> None:
    results = []
    for seed in (1, 1, 2):
        patient = admit("mlp")
        torch.manual_seed(len(results))  # the global generator has no say
        generator = torch.Generator().manual_seed(seed)
        reset_units(patient.network, patient.optimizer, patient.every_other(), ResetPolicy(), generator)
        results.append(patient.network.tensor(WEIGHT).clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_two_resets_in_a_row_draw_different_values(admit: Any) -> None:
    patient = admit("mlp")
    drawn = []
    for _ in range(2):
        reset_units(patient.network, patient.optimizer, patient.every_other(), ResetPolicy(), patient.generator)
        drawn.append(patient.network.tensor(WEIGHT)[1].clone())
    assert (drawn[0] != drawn[1]).all()


def test_training_continues_after_a_reset(patient: Any) -> None:
    policy = ResetPolicy(optimizer_state="restart")
    reset_units(patient.network, patient.optimizer, patient.every_other(), policy, patient.generator)
    before = patient.values()
    patient.train(2)
    after = patient.values()
    assert all(value.isfinite().all() for value in after.values())
    assert all((value != before[name]).any() for name, value in after.items() if name.endswith("weight"))
