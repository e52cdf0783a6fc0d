"""Several networks side by side, checked by what they do."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from plasticity.networks.factory import build_network
from plasticity.networks.heads.ensemble import Ensemble
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec

HEADS = {"value": HeadSpec("value", 1), "categorical": HeadSpec("categorical", 1, 5, -1.0, 1.0)}
INPUTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=HEADS)
def ensemble(request: pytest.FixtureRequest) -> Ensemble:
    return made(request.param)


def made(kind: str = "value", seed: int = 0, members: int = 2) -> Ensemble:
    network = build_network(MLPSpec(widths=[5, 4]), (3,), torch.float32, HEADS[kind], seed, members)
    assert isinstance(network, Ensemble)
    return network


@torch.no_grad()
def changed(before: Tensor, after: Tensor) -> list[bool]:
    """Whether the output of each member moved."""
    return (before != after).transpose(0, 1).flatten(1).any(1).tolist()


@torch.no_grad()
def test_outputs_are_those_of_the_members_side_by_side(ensemble: Ensemble) -> None:
    outputs = ensemble(INPUTS)
    assert outputs.shape[:2] == (6, 2)
    for index, member in enumerate(ensemble.networks):
        assert torch.equal(outputs[:, index : index + 1], member(INPUTS))
        assert torch.equal(ensemble.decode(outputs)[:, index : index + 1], member.decode(member(INPUTS)))
    assert (outputs[:, 0] != outputs[:, 1]).any()


@torch.no_grad()
def test_a_unit_belongs_to_one_member(ensemble: Ensemble) -> None:
    assert ensemble.units.names == ("0.dense_1", "0.dense_2", "1.dense_1", "1.dense_2")
    before = ensemble(INPUTS)
    for layer in ensemble.units.layers:
        alone = [index == int(layer.name[0]) for index in range(2)]
        for slice_ in [layer.weight, layer.bias, *(reader.weight for reader in layer.consumers)]:
            assert slice_ is not None
            tensor = ensemble.tensor(slice_.tensor)
            kept = tensor.clone()
            tensor.add_(slice_.mask(torch.ones(layer.units, dtype=torch.bool), tensor) * 0.5)
            assert changed(before, ensemble(INPUTS)) == alone, (layer.name, slice_.tensor)
            tensor.copy_(kept)
        for reader in layer.consumers:
            assert reader.bias is not None
            tensor = ensemble.tensor(reader.bias)
            kept = tensor.clone()
            tensor.add_(0.5 * torch.arange(1.0, tensor.shape[0] + 1))  # the same for all would not move a categorical
            assert changed(before, ensemble(INPUTS)) == alone
            tensor.copy_(kept)


@torch.no_grad()
def test_taps_carry_the_members_number(ensemble: Ensemble) -> None:
    with ensemble.taps.record():
        ensemble(INPUTS)
    assert list(ensemble.taps.pre) == list(ensemble.taps.post) == list(ensemble.units.names)
    for index, member in enumerate(ensemble.networks):
        assert not member.taps.post
        with member.taps.record():
            member(INPUTS)
        for name in member.units.names:
            assert torch.equal(ensemble.taps.pre[f"{index}.{name}"], member.taps.pre[name])
            assert torch.equal(ensemble.taps.post[f"{index}.{name}"], member.taps.post[name])


def test_nothing_is_tapped_unless_asked(ensemble: Ensemble) -> None:
    ensemble(INPUTS)
    assert not ensemble.taps.pre


def test_a_block_holds_one_level_of_all_members(ensemble: Ensemble) -> None:
    assert [block.name for block in ensemble.blocks] == ["dense_1", "dense_2", "head"]
    for block, path in zip(
        ensemble.blocks, ["torso.layers.dense_1.linear", "torso.layers.dense_2.linear", "head.linear"], strict=True
    ):
        assert set(block.parameters) == {f"members.{index}.{path}.{leaf}" for index in range(2) for leaf in ("weight", "bias")}


def test_members_start_differently_and_a_seed_decides(ensemble: Ensemble) -> None:
    one, again, other = made(), made(), made(seed=1)
    weights = [dict(network.weights()) for network in (one, again, other)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])
        assert not torch.equal(value, weights[2][name])
        assert not torch.equal(value, weights[0][name.replace("members.0", "members.1")]) or "members.1" in name


def test_a_fresh_ensemble_has_its_shape_and_other_values(ensemble: Ensemble) -> None:
    fresh = ensemble.fresh(3)
    assert isinstance(fresh, Ensemble)
    old, new = ensemble.weights(), fresh.weights()
    assert old.keys() == new.keys()
    assert all(old[name].shape == new[name].shape and (old[name] != new[name]).all() for name in old)
    assert all(torch.equal(value, ensemble.fresh(3).weights()[name]) for name, value in new.items())


@torch.no_grad()
def test_a_copy_is_independent(ensemble: Ensemble) -> None:
    twin = deepcopy(ensemble)
    before = twin(INPUTS)
    assert torch.equal(before, ensemble(INPUTS))
    for name in ensemble.initialisers:
        ensemble.tensor(name).add_(1.0)
    assert torch.equal(twin(INPUTS), before)
    assert changed(before, ensemble(INPUTS)) == [True, True]
    # What the copy looks up by name is what it computes with, so writing there is seen.
    twin.tensor("members.1.head.linear.bias")[0].add_(1.0)
    assert changed(before, twin(INPUTS)) == [False, True]


def test_casting_reaches_what_is_looked_up_by_name(ensemble: Ensemble) -> None:
    name = "members.0.head.linear.weight"
    assert ensemble.tensor(name).dtype == torch.float32
    exact = ensemble.double()
    assert exact.tensor(name).dtype == torch.float64
    assert exact(INPUTS).dtype == torch.float64


def test_three_members() -> None:
    assert made(members=3)(INPUTS).shape == (6, 3)


def test_the_mode_reaches_all_members() -> None:
    spec = MLPSpec(widths=[4], normalisation=["batch"])
    ensemble = build_network(spec, (3,), torch.float32, HEADS["value"], 0, 2)
    for mode in (False, True):
        ensemble.train(mode)
        assert {module.training for module in ensemble.modules()} == {mode}
