from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.perturb_by_dormancy import PerturbByDormancy, dormant_share, kept_share
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.residual import SimbaSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.execution import Execution
from plasticity.updates.updater import Updater

NAME = "perturb_by_dormancy"
SPECS = {
    "mlp": (MLPSpec(widths=[6, 4], normalisation=["layer"]), (3,)),
    "conv": (ConvSpec(widths=[6, 4], channels=[3], activations=["crelu"]), (1, 5, 5)),
    "simba": (SimbaSpec(widths=[4]), (3,)),
}


def build(layout: str = "mlp", autocast: torch.dtype | None = None, **settings: Any) -> Updater:
    spec, inputs = SPECS[layout]
    methods = {NAME: lambda: PerturbByDormancy(**settings)}
    make = PartBuilder(spec, inputs, torch.float32, OptimizerSettings("adam", 0.05), methods, execution=Execution(autocast))
    return make("q", HeadSpec("regression", 2))


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.step((part.forward(inputs) - 1).square().mean(), None)


def values(part: Updater) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in part.network.named_parameters()}


def test_share_by_hand() -> None:
    # Means 4, 1 and 0.1, whose mean is 1.7: 0.17 is a tenth of it. A convolution of means 1 and 1.
    dense = torch.tensor([[4.0, -1.0, 0.1], [-4.0, 1.0, -0.1]])
    spatial = torch.tensor([[[[1.0, -1.0]], [[2.0, 0.0]]]])
    assert dormant_share([dense, spatial], 0.1).item() == pytest.approx(1 / 5)
    assert dormant_share([dense, spatial], 0.6).item() == pytest.approx(2 / 5)
    assert dormant_share([torch.zeros(2, 3)], 0.0).item() == 1.0


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0.9), (0.1, 0.8), (0.25, 0.5), (0.5, 0.2), (1.0, 0.2)])
def test_kept_share_by_hand(share: float, kept: float) -> None:
    assert kept_share(torch.tensor(share), 2.0, 0.2, 0.9).item() == pytest.approx(kept)


@pytest.mark.parametrize("layout", SPECS)
@pytest.mark.parametrize("convolutions", [True, False])
def test_against_plain_arithmetic(layout: str, convolutions: bool) -> None:
    part = build(layout, threshold=0.6, every_updates=3, convolutions=convolutions, optimizer_state="keep")
    noise = build(layout, threshold=0.6, every_updates=3, convolutions=convolutions, rate=0.0, least=0.0, most=0.0)
    for step in range(1, 3):
        update(part, step)
    before = deepcopy(part)
    before.interventions[NAME].every_updates = 0  # type: ignore[attr-defined]
    logs = update(part, 3)
    update(before, 3)
    for step in range(1, 4):  # nothing kept: what is left is the noise
        update(noise, step)
    dormant_units = total = 0
    for z in before.network.taps.pre.values():
        activity = z.abs().transpose(0, 1).flatten(1).mean(1)
        dormant_units += int((activity <= 0.6 * activity.mean()).sum())
        total += len(activity)
    kept = min(0.9, max(0.2, 1 - 2 * dormant_units / total))
    assert 0.2 < kept < 0.9 or layout != "mlp"
    assert float(logs[f"{NAME}/dormant_share"]) == pytest.approx(dormant_units / total)
    assert float(logs[f"{NAME}/kept"]) == pytest.approx(kept)
    for name, value in values(part).items():
        mixed = name not in part.network.norm_parameters and (convolutions or ".conv_" not in name)
        wanted = kept * values(before)[name] + (1 - kept) * values(noise)[name] if mixed else values(before)[name]
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=name)


def test_at_a_task_switch_the_last_share_counts() -> None:
    part = build(threshold=1.0, every_updates=2, at_task_switch=True)
    assert float(part.task_switch(1)[f"{NAME}/kept"]) == pytest.approx(0.9)
    update(part, 1)
    share = float(update(part, 2)[f"{NAME}/dormant_share"])
    update(part, 3)
    assert share > 0
    assert float(part.task_switch(2)[f"{NAME}/dormant_share"]) == share


def test_resuming() -> None:
    whole, half = (build("conv", threshold=0.6, every_updates=2) for _ in range(2))
    for step in range(3):
        update(whole, step)
        update(half, step)
    resumed = build("conv", threshold=0.6, every_updates=2)
    resumed.load_state_dict(deepcopy(half.state_dict()))
    for part in (whole, resumed):
        part.task_switch(1)
        update(part, 7)
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True))


def test_bf16_and_the_optimizer_is_wiped() -> None:
    part = build("conv", torch.bfloat16, threshold=0.6, every_updates=3, convolutions=True)
    for step in range(1, 4):
        logs = update(part, step)
    assert 0.2 <= float(logs[f"{NAME}/kept"]) <= 0.9
    assert all(float(part.optimizer.state[p]["step"]) == 0.0 for p in part.network.parameters())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in part.network.parameters())


def test_refusals() -> None:
    for settings, message in [
        ({"threshold": -1.0}, r"perturb_by_dormancy\.threshold=-1\.0 must be at least 0"),
        ({"least": 0.95}, r"perturb_by_dormancy\.most=0\.9 must be between 0\.95 and 1"),
        ({"optimizer_state": "x"}, r"optimizer_state=x is unknown"),
    ]:
        with pytest.raises(ValueError, match=message):
            PerturbByDormancy(**settings)  # type: ignore[arg-type]
    make = {NAME: lambda: PerturbByDormancy()}
    with pytest.raises(ValueError, match="this network has none"):
        PartBuilder(MLPSpec(widths=[]), (3,), torch.float32, OptimizerSettings(), make)("q", HeadSpec("q", 2))
