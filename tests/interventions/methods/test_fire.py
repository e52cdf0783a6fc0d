from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.fire import FIRE, isometry, polar_factor, squared_distance
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.residual import SimbaSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

NOISY = HeadSpec("q", 2, dueling=True, stream_widths=(4,), noise_deviation=0.5)
SPECS = {
    "mlp": (MLPSpec(widths=[6, 4], normalisation=["layer"]), (3,), HeadSpec("regression", 2), 1),
    "conv": (ConvSpec(widths=[4], channels=[3, 5], activations=["crelu"], normalisation=["batch"]), (1, 6, 6), NOISY, 1),
    "ensemble": (MLPSpec(widths=[5, 4]), (3,), HeadSpec("value", 1), 2),
    "simba": (SimbaSpec(widths=[4]), (3,), HeadSpec("gaussian", 2), 1),
    "resnet": (ResNetSpec(widths=[], channels=[4, 6], normalisation=["batch"]), (3, 8, 8), HeadSpec("q", 2), 1),
}


def build(layout: str = "mlp", treated: bool = True, **settings: Any) -> Updater:
    spec, inputs, head, members = SPECS[layout]
    methods = {"fire": lambda: FIRE(**settings)} if treated else {}
    make = PartBuilder(spec, inputs, torch.float32, OptimizerSettings("adam", 0.05), methods)
    return make("q", head, members=members)


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.step((part.forward(inputs) - 1).square().mean(), None)


def values(part: Updater) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in part.network.named_parameters()}


def exact(weight: Tensor) -> Tensor:
    """The isometry by singular values, slice by slice."""
    scale = (weight.shape[0] / weight.shape[1]) ** 0.5
    if weight.ndim == 2:
        left, _, right = torch.linalg.svd(weight, full_matrices=False)
        return scale * left @ right
    result = torch.empty_like(weight)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            result[:, :, row, column] = exact(weight[:, :, row, column]) / (weight.shape[2] * weight.shape[3])
    return result


def test_one_iteration_by_hand() -> None:
    # diag(3, 4) / 5 = diag(0.6, 0.8); 1.5 * 0.6 - 0.5 * 0.216 = 0.792, 1.5 * 0.8 - 0.5 * 0.512 = 0.944.
    torch.testing.assert_close(polar_factor(torch.diag(torch.tensor([3.0, 4.0])), 1), torch.diag(torch.tensor([0.792, 0.944])))


def test_a_rotation_stays_one_and_zeros_stay_zeros() -> None:
    rotation = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    torch.testing.assert_close(polar_factor(3 * rotation, 10), rotation)
    assert not polar_factor(torch.zeros(2, 3), 10).any()


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)])
def test_converges_to_the_polar_factor(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(polar_factor(weight, 30), left @ right, rtol=1e-4, atol=1e-5)


def test_ten_iterations_leave_ill_conditioned_matrices_short_of_it() -> None:
    # Singular values 1 and 0.001: the small one grows by 1.5 a time, to 0.001 * 1.5^10 = 0.0577 less a little.
    result = polar_factor(torch.diag(torch.tensor([1.0, 0.001])), 10)
    assert result[0, 0].item() == pytest.approx(1.0)
    assert result[1, 1].item() == pytest.approx(0.0577, rel=0.01)


def test_scale_by_hand() -> None:
    # (4, 1): sqrt(4 / 1) times the unit vector. A convolution (1, 1, 2, 2): signs of its four entries, by 1 / 4.
    torch.testing.assert_close(isometry(torch.tensor([[3.0], [0.0], [4.0], [0.0]]), 10), torch.tensor([[1.2], [0], [1.6], [0]]))
    torch.testing.assert_close(
        isometry(torch.tensor([[[[0.5, -2.0], [7.0, 0.0]]]]), 10), torch.tensor([[[[0.25, -0.25], [0.25, 0.0]]]])
    )


def test_squared_distance_by_hand() -> None:
    assert squared_distance([torch.tensor([[1.0, 2.0]]), torch.zeros(2)], [torch.tensor([[4.0, 6.0]]), torch.ones(2)]) == 27.0


@pytest.mark.parametrize("layout", SPECS)
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_every_weight_and_nothing_else(layout: str, strength: float) -> None:
    part = build(layout, strength=strength, iterations=40)
    for step in range(3):
        update(part, step)
    before = values(part)
    buffers = {name: value.clone() for name, value in part.network.named_buffers()}
    logs = part.task_switch(1)
    moved = torch.zeros(())
    for name, value in values(part).items():
        linear = value.ndim >= 2 and not name.endswith("deviation")
        wanted = before[name] + strength * (exact(before[name]) - before[name]) if linear else before[name]
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4 if linear else 0, msg=name)
        moved += (value - before[name]).square().sum()
    torch.testing.assert_close(logs["fire/squared_distance"], moved, rtol=1e-4, atol=0)
    assert all(torch.equal(value, buffers[name]) for name, value in part.network.named_buffers())


@pytest.mark.parametrize(("policy", "count"), [("restart", 0.0), ("zero", 2.0), ("keep", 2.0)])
def test_optimizer_state(policy: str, count: float) -> None:
    part = build(optimizer_state=policy)
    for step in range(2):
        update(part, step)
    part.task_switch(1)
    for parameter in part.network.parameters():
        state = part.optimizer.state[parameter]
        assert float(state["step"]) == count
        assert bool(state["exp_avg_sq"].any()) == (policy == "keep")


def test_head_and_targets() -> None:
    part = build(reset_head=False, copies=True)
    part.copies["target"] = target = deepcopy(part.network)
    head = part.network.tensor("head.linear.weight").detach().clone()
    part.task_switch(1)
    assert torch.equal(part.network.tensor("head.linear.weight"), head)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), part.network.parameters(), strict=True))


def test_schedule() -> None:
    part = build(every_updates=3, at_updates=[4], at_task_switch=False)
    assert [step for step in range(1, 8) if update(part, step)] == [3, 4, 6]
    assert not part.task_switch(1)


def test_strength_0_changes_nothing() -> None:
    part, plain = build("conv", strength=0.0, optimizer_state="keep", every_updates=1), build("conv", treated=False)
    for step in range(3):
        update(part, step)
        update(plain, step)
    part.task_switch(1)
    assert all(torch.equal(a, b) for a, b in zip(part.network.parameters(), plain.network.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, r"fire\.iterations=0 must be at least 1"),
        ({"strength": 2.0}, r"fire\.strength=2\.0 must be between 0 and 1"),
        ({"optimizer_state": "x"}, r"fire\.optimizer_state=x is unknown"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FIRE(**settings)
