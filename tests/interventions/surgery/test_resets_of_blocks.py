"""Resets of whole layers."""

import copy
from typing import Any

import pytest
import torch

from plasticity.interventions.surgery.resets import reset_blocks
from plasticity.optimizers.unit_adam import UnitAdam


@pytest.mark.parametrize("last", [1, 2, 3])
@pytest.mark.parametrize("name", ["mlp_batch_norm_load_balancing", "conv_head", "conv_crelu_flatten_dense"])
def test_the_last_blocks_become_those_of_a_fresh_network(admit: Any, name: str, last: int) -> None:
    patient = admit(name)
    network, before = patient.network, patient.values()
    chosen = network.blocks[-last:]
    identity = {key: (id(value), value.data_ptr()) for key, value in network.named_parameters()}
    reset_blocks(network, patient.optimizer, tuple(block.name for block in chosen), 77, "restart")
    names = {key for block in chosen for key in (*block.parameters, *block.buffers)}
    fresh = network.fresh(77).state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(value, fresh[key] if key in names else before[key]), key
    assert {key: (id(value), value.data_ptr()) for key, value in network.named_parameters()} == identity


@pytest.mark.parametrize("policy", ["keep", "zero", "restart"])
def test_the_optimizer_state_of_reset_blocks(admit: Any, policy: str) -> None:
    patient = admit("mlp")
    before = copy.deepcopy(patient.optimizer.state_dict()["state"])
    reset_blocks(patient.network, patient.optimizer, ("head",), 1, policy)
    for index, (name, parameter) in enumerate(patient.network.named_parameters()):
        state = patient.optimizer.state[parameter]
        if policy == "keep" or not name.startswith("head"):
            assert all(torch.equal(state[key], before[index][key]) for key in before[index])
        elif policy == "zero":
            assert state["step"] == 3
            assert not state["exp_avg"].any()
            assert not state["exp_avg_sq"].any()
        else:
            assert all(not state[key].any() for key in ("step", "exp_avg", "exp_avg_sq"))


def test_a_reset_of_everything_is_a_new_run(admit: Any) -> None:
    patient = admit("mlp")
    reset_blocks(patient.network, patient.optimizer, tuple(block.name for block in patient.network.blocks), 8, "restart")
    fresh = patient.network.fresh(8)
    optimizer = UnitAdam(fresh.parameters(), lr=1e-2, fused=True)
    patient.train(5)
    for step in range(5):
        optimizer.zero_grad()
        (fresh(patient.inputs).square().mean() + step).backward()
        optimizer.step()
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in patient.values().items())
