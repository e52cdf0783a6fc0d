from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.dash import DASH, shrinking_factors
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.residual import SimbaSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

NOISY = HeadSpec("q", 2, dueling=True, stream_widths=(4,), noise_deviation=0.5)
SPECS = {
    "mlp": (MLPSpec(widths=[6, 4], normalisation=["layer"]), (3,), HeadSpec("regression", 2), 1),
    "conv": (ConvSpec(widths=[4], channels=[3, 5], activations=["crelu"]), (1, 6, 6), NOISY, 1),
    "ensemble": (MLPSpec(widths=[5, 4]), (3,), HeadSpec("value", 1), 2),
    "simba": (SimbaSpec(widths=[4]), (3,), HeadSpec("gaussian", 2), 1),
    "resnet": (ResNetSpec(widths=[], channels=[4, 6], normalisation=["batch"]), (3, 8, 8), HeadSpec("q", 2), 1),
}


def build(layout: str = "mlp", treated: bool = True, **settings: Any) -> Updater:
    spec, inputs, head, members = SPECS[layout]
    methods = {"dash": lambda: DASH(**settings)} if treated else {}
    make = PartBuilder(spec, inputs, torch.float32, OptimizerSettings("sgd", 0.05), methods)
    return make("q", head, members=members)


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.step((part.forward(inputs) - 1).square().mean(), None)


def values(part: Updater) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in part.network.named_parameters()}


def naive(name: str, weight: Tensor, direction: Tensor, smallest: float) -> Tensor:
    """Row by row and kernel by kernel."""
    if name.endswith("deviation") or "norms" in name or "before" in name or "final" in name:
        return weight
    result = weight.clone()
    if weight.ndim == 1:
        for row in range(weight.shape[0]):
            result[row] *= 1.0 if weight[row] * direction[row] > 0 else smallest
    for row in range(weight.shape[0]) if weight.ndim > 1 else ():
        parts = [(row,)] if weight.ndim == 2 else [(row, column) for column in range(weight.shape[1])]
        for part in parts:
            cosine = torch.nn.functional.cosine_similarity(weight[part].flatten(), direction[part].flatten(), 0, 1e-20)
            result[part] *= max(float(cosine), smallest)
    return result


def test_factors_by_hand() -> None:
    # Rows (3, 4) and (1, 0) along (0, 5) and (-1, 0): cosines 0.8 and -1. A row without a direction: 0.
    weight = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0]])
    direction = torch.tensor([[0.0, 5.0], [-1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(shrinking_factors(weight, direction, 0.3), torch.tensor([[0.8], [0.3], [0.3]]))
    torch.testing.assert_close(
        shrinking_factors(torch.tensor([2.0, -2.0, 0.0]), torch.tensor([1e-9, 1.0, 1.0]), 0.1), torch.tensor([1.0, 0.1, 0.1])
    )


def test_biases_have_a_cosine_for_each_entry_or_one_for_all_by_hand() -> None:
    # (3, -4, 0) along (4, 3, 5): signs 1, -1 and 0; (12 - 12) / ... = 0 together. Along (6, 0, 8): 18 / (5 * 10) = 0.36.
    bias = torch.tensor([3.0, -4.0, 0.0])
    for direction, entries, together in (([4.0, 3.0, 5.0], [1.0, 0.3, 0.3], 0.3), ([6.0, 0.0, 8.0], [1.0, 0.3, 0.3], 0.36)):
        along = torch.tensor(direction)
        torch.testing.assert_close(shrinking_factors(bias, along, 0.3), torch.tensor(entries))
        torch.testing.assert_close(shrinking_factors(bias, along, 0.3, "vectors"), torch.tensor([together]))


def test_one_cosine_for_each_bias_vector() -> None:
    part = build(every_updates=2, biases="vectors", optimizer_state="keep", rate=1.0, smallest_factor=0.1)
    plain = build(treated=False)
    for step in range(2):
        update(part, step)
        update(plain, step)
    for name, weight in plain.network.named_parameters():
        if name.endswith("linear.bias"):
            assert weight.grad is not None
            cosine = torch.nn.functional.cosine_similarity(weight, -weight.grad, 0)
            torch.testing.assert_close(
                part.network.tensor(name).detach(), weight.detach() * max(float(cosine.detach()), 0.1), msg=name
            )
    assert sum(name.endswith("linear.bias") for name, _ in plain.network.named_parameters()) == 3


def test_each_kernel_has_a_factor_of_its_own() -> None:
    # Kernels (out, in) of 1 x 2: (3, 4) along (3, 4), and (3, 4) along (4, -3).
    weight = torch.tensor([[[[3.0, 4.0]], [[3.0, 4.0]]]])
    factors = shrinking_factors(weight, torch.tensor([[[[3.0, 4.0]], [[4.0, -3.0]]]]), 0.2)
    torch.testing.assert_close(factors, torch.tensor([[[[1.0]], [[0.2]]]]))


def test_tiny_gradients_have_directions_too() -> None:
    weight = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(shrinking_factors(weight, 1e-12 * weight, 0.1), torch.tensor([[1.0]]))


@pytest.mark.parametrize("collect", [0, 2])
@pytest.mark.parametrize("layout", SPECS)
def test_against_plain_loops(layout: str, collect: int) -> None:
    part = build(layout, rate=0.4, smallest_factor=0.25, collect_updates=collect)
    plain = build(layout, treated=False)
    averages = {name: torch.zeros_like(value) for name, value in values(plain).items()}
    owed = 0
    for step in range(1, 8):
        if step == 4:
            part.task_switch(1)
            owed = collect
            if collect:
                averages = {name: torch.zeros_like(value) for name, value in values(plain).items()}
            else:
                shrink(plain, averages)
        update(part, step)
        update(plain, step)
        for name, value in plain.network.named_parameters():
            if value.grad is not None and (collect == 0 or owed):
                averages[name] = 0.6 * averages[name] - 0.4 * value.grad
        if owed == 1:
            shrink(plain, averages)
        owed = max(0, owed - 1)
        for (name, value), other in zip(part.network.named_parameters(), plain.network.parameters(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=f"{step} {name}")


def shrink(plain: Updater, averages: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in plain.network.named_parameters():
            value.copy_(naive(name, value.detach(), averages[name], 0.25))


def test_schedule_and_logs() -> None:
    part = build(every_updates=4, collect_updates=2, at_task_switch=False)
    acted = [step for step in range(1, 12) if update(part, step)]
    assert acted == [6, 10]
    assert not part.task_switch(1)
    part = build(every_updates=3, at_updates=[4])
    logs = {step: entry for step in range(1, 7) if (entry := update(part, step))}
    assert list(logs) == [3, 4, 6]
    assert all(0.3 <= float(entry["dash/mean_factor"]) <= 1.0 for entry in logs.values())


def test_resuming_in_the_middle_of_collecting() -> None:
    whole, half = (build("conv", collect_updates=3) for _ in range(2))
    for part in (whole, half):
        update(part, 1)
        part.task_switch(1)
        update(part, 2)
    resumed = build("conv", collect_updates=3)
    resumed.load_state_dict(deepcopy(half.state_dict()))
    for step in range(3, 7):
        assert bool(update(whole, step)) == bool(update(resumed, step)) == (step == 4)
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True))


@pytest.mark.parametrize(("policy", "kept"), [("restart", False), ("keep", True)])
def test_optimizer_state(policy: str, kept: bool) -> None:
    spec, inputs, head, _ = SPECS["mlp"]
    make = {"dash": lambda: DASH(optimizer_state=policy)}
    part = PartBuilder(spec, inputs, torch.float32, OptimizerSettings("adam", 0.05), make)("q", head)
    update(part)
    part.task_switch(1)
    assert all(bool(part.optimizer.state[p]["step"]) == kept for p in part.network.parameters())


def test_factor_1_changes_nothing() -> None:
    part = build("conv", smallest_factor=1.0, optimizer_state="keep", every_updates=1)
    plain = build("conv", treated=False)
    for step in range(3):
        update(part, step)
        update(plain, step)
    part.task_switch(1)
    assert all(torch.equal(a, b) for a, b in zip(part.network.parameters(), plain.network.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, r"dash\.rate=0\.0 must be between"),
        ({"smallest_factor": 1.5}, r"dash\.smallest_factor=1\.5 must be between 0 and 1"),
        ({"biases": "rows"}, r"dash\.biases=rows is unknown; choose from entries, vectors"),
        ({"collect_updates": -1}, r"dash\.collect_updates=-1 must be at least 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DASH(**settings)
