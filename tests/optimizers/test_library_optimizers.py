"""Optimizers of a library, and Muon: what they hold, that they learn, and that they resume bit for bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings, build_optimizer
from plasticity.optimizers.library_optimizers import scalable_shampoo
from plasticity.optimizers.optimizer_state import require_restart, reset_entries
from plasticity.optimizers.paired_optimizer import PairedOptimizer, owner_of
from plasticity.optimizers.unit_adam import UnitAdam

LIBRARY = ["soap", "shampoo", "kron"]
NAMES = [*LIBRARY, "muon"]
SPEC = ConvSpec(widths=[6, 5], channels=[3], normalisation=["layer"])


def network() -> Network:
    return build_network(SPEC, (2, 6, 6), torch.float32, HeadSpec("regression", 2), 0)


def optimizer_of(name: str, net: Network, factor: float = 1.0) -> torch.optim.Optimizer:
    rate = {"muon": 1e-3, "shampoo": 0.03}.get(name, 3e-3) * factor
    return build_optimizer(OptimizerSettings(name, rate), net, seed=3)


def examples(seed: int, count: int = 8) -> tuple[Tensor, Tensor]:
    """Two signs, and images (count, 2, 6, 6) in which each shows as a pattern, under noise."""
    patterns = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(10**6))
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(2, (count, 2), generator=generator) - 1
    noise = torch.randn(count, 2, 6, 6, generator=generator)
    return torch.einsum("bs,schw->bchw", signs, patterns) + 0.5 * noise, signs


def loss_of(net: Network) -> float:
    """The mean squared error for images that it never learns from; 1 is what an output of 0 has."""
    x, signs = examples(10**6 + 1, 256)
    with torch.no_grad():
        return float((net(x) - signs).square().mean())


def train(net: Network, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        x, signs = examples(step)
        optimizer.zero_grad()
        loss = (net(x) - signs).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_held_once_and_learns(name: str) -> None:
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = optimizer_of(name, net, factor=4)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in net.parameters())
    train(net, optimizer, 0, 80)
    assert loss_of(net) < 0.25
    assert all(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def test_shampoo_preconditions_small_weights_and_keeps_the_length_of_sgd() -> None:
    # Without momentum a step is the grafted direction alone: of the gradient's length, turned by an inverse root for each axis.
    weight, bias = nn.Parameter(torch.zeros(6, 4)), nn.Parameter(torch.zeros(6))
    optimizer = scalable_shampoo([weight, bias], 0.1, (0.0, 0.9), 0)
    left, right = 1e-6 * torch.eye(6, dtype=torch.float64), 1e-6 * torch.eye(4, dtype=torch.float64)
    for step in range(1, 11):
        generator = torch.Generator().manual_seed(step)
        turnable = torch.randn(6, 4, generator=generator) * torch.tensor([[10.0], [3.0], [1.0], [1.0], [0.3], [0.1]])
        plain = torch.randn(6, generator=generator)
        weight.grad, bias.grad = turnable.clone(), plain.clone()
        gradient, before = turnable.double(), [weight.detach().clone(), bias.detach().clone()]
        left, right = 0.9 * left + 0.1 * gradient @ gradient.T, 0.9 * right + 0.1 * gradient.T @ gradient
        optimizer.step()
    moved = (before[0] - weight.detach()).double() / 0.1
    turned = _root(left) @ gradient @ _root(right)
    torch.testing.assert_close(moved, turned * gradient.norm() / turned.norm(), rtol=0.02, atol=0.02)
    cosine = torch.nn.functional.cosine_similarity(moved.flatten(), gradient.flatten(), 0)
    assert 0.1 < float(cosine) < 0.92
    torch.testing.assert_close(before[1] - bias.detach(), 0.1 * plain)


def _root(matrix: torch.Tensor) -> torch.Tensor:
    """Returns the inverse fourth root."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(1e-6) ** -0.25) @ vectors.T


@pytest.mark.parametrize("name", NAMES)
def test_resuming_is_exact(name: str, through_disk: Callable[[Any], Any]) -> None:
    whole = network()
    train(whole, optimizer_of(name, whole), 0, 30)
    half = network()
    optimizer = optimizer_of(name, half)
    train(half, optimizer, 0, 13)
    saved = through_disk({"network": half.state_dict(), "optimizer": optimizer.state_dict()})
    train(half, optimizer, 13, 15)  # what was saved is a copy
    other = network()
    resumed = optimizer_of(name, other)
    other.load_state_dict(saved["network"])
    resumed.load_state_dict(saved["optimizer"])
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    train(other, resumed, 13, 30)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", LIBRARY)
def test_global_generators_are_left_alone(name: str) -> None:
    net = network()
    optimizer = optimizer_of(name, net)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    train(net, optimizer, 0, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numbers).all()  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("name", LIBRARY)
def test_single_units_cannot_be_reset_but_whole_parameters_can(name: str) -> None:
    net = network()
    optimizer = optimizer_of(name, net)
    train(net, optimizer, 0, 12)
    for policy in ("zero", "restart"):
        with pytest.raises(ValueError, match=f"redo.optimizer_state={policy} is not defined for this optimizer"):
            require_restart("redo", policy, optimizer)
    require_restart("redo", "keep", optimizer)
    weight = net.tensor("torso.layers.dense_1.linear.weight")
    reset_entries(optimizer, weight, None, "zero")
    assert not optimizer.state[weight]
    assert all(np.isfinite(train(net, optimizer, 12, 40)))


# Muon


def test_muon_takes_the_matrices_of_hidden_dense_layers() -> None:
    net = network()
    optimizer = optimizer_of("muon", net)
    assert isinstance(optimizer, PairedOptimizer)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    muon = [names[id(p)] for group in optimizer.pair[0].param_groups for p in group["params"]]
    assert muon == ["torso.layers.dense_1.linear.weight", "torso.layers.dense_2.linear.weight"]
    assert isinstance(owner_of(optimizer, net.tensor("head.linear.weight")), UnitAdam)
    assert owner_of(optimizer, net.tensor(muon[0])) is optimizer.pair[0]


def test_a_step_of_muon_is_nearly_orthogonal() -> None:
    net = network()
    weight = net.tensor("torso.layers.dense_2.linear.weight")
    before = weight.detach().clone()
    train(net, optimizer_of("muon", net), 0, 1)
    values = torch.linalg.svdvals((weight - before).detach())
    # 0.2 sqrt(larger side) times singular values that five iterations bring to about [0.68, 1.13]
    scaled = values / (1e-3 * 0.2 * 6**0.5)
    assert 0.6 < float(scaled[-2]) < float(scaled[0]) < 1.25  # all but the smallest, which is not brought up in five


def test_adams_half_of_muon_restarts_units() -> None:
    net = network()
    optimizer = optimizer_of("muon", net)
    train(net, optimizer, 0, 5)
    bias, weight = net.tensor("torso.layers.dense_1.linear.bias"), net.tensor("torso.layers.dense_1.linear.weight")
    rows = torch.tensor([True, False, False, False, False, False])
    reset_entries(optimizer, bias, rows, "restart")
    reset_entries(optimizer, weight, rows.unsqueeze(1), "zero")
    adam = optimizer.pair[1]  # type: ignore[attr-defined]
    assert adam.restarted_at(bias).tolist() == [5.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert not optimizer.state[weight]["momentum_buffer"][0].any()
    assert optimizer.state[weight]["momentum_buffer"][1].any()


def test_muon_needs_a_hidden_dense_layer() -> None:
    net = build_network(MLPSpec(widths=[]), (3,), torch.float32, HeadSpec("q", 2), 0)
    with pytest.raises(ValueError, match="optimizer=muon orthogonalises steps of hidden dense layers, and this network has none"):
        optimizer_of("muon", net)
