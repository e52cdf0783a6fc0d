from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.selective_weight_reinitialisation import SelectiveWeightReinitialisation, entries_to_reset
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.execution import Execution
from plasticity.updates.updater import Updater

NAME = "selective_weight_reinitialisation"
NOISY = HeadSpec("q", 2, dueling=True, stream_widths=(4,), noise_deviation=0.5)
SPECS = {
    "mlp": (MLPSpec(widths=[6, 4], normalisation=["layer"]), (3,), HeadSpec("regression", 2), 1),
    "conv": (ConvSpec(widths=[4], channels=[3, 5], activations=["crelu"], normalisation=["batch"]), (1, 6, 6), NOISY, 1),
    "ensemble": (MLPSpec(widths=[5, 4], initialiser="orthogonal"), (3,), HeadSpec("value", 1), 2),
    "resnet": (ResNetSpec(widths=[], channels=[4, 6], normalisation=["batch"]), (3, 8, 8), HeadSpec("q", 2), 1),
}


def build(layout: str = "mlp", treated: bool = True, optimizer: str = "adam", **settings: Any) -> Updater:
    spec, inputs, head, members = SPECS[layout]
    methods = {NAME: lambda: SelectiveWeightReinitialisation(**settings)} if treated else {}
    make = PartBuilder(spec, inputs, torch.float32, OptimizerSettings(optimizer, 0.05), methods)
    return make("q", head, members=members)


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.step((part.forward(inputs) - 1).square().mean(), None)


def values(part: Updater) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in part.network.named_parameters()}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_threshold_by_hand() -> None:
    # The mean is 3: half of it reaches 1.5, and a tie counts.
    utility = torch.tensor([[0.0, 1.5], [1.6, 8.9]])
    assert entries_to_reset(utility, "threshold", 0.5, generator()).tolist() == [[True, True], [False, False]]
    assert entries_to_reset(utility, "threshold", 0.0, generator()).tolist() == [[True, False], [False, False]]


def test_proportion_by_hand() -> None:
    utility = torch.tensor([[5.0, 1.0, 4.0], [3.0, 2.0, 6.0]])
    assert entries_to_reset(utility, "proportional", 0.5, generator()).tolist() == [[False, True, False], [True, True, False]]
    assert entries_to_reset(utility, "proportional", 1.0, generator()).all()
    assert not entries_to_reset(utility, "proportional", 0.0, generator()).any()


def test_a_proportion_is_right_on_average() -> None:
    # 10 entries at 0.13: one in all, a second one three times in ten. 400 draws: standard error 0.023.
    source = generator()
    utility = torch.arange(10.0)
    counts = [int(entries_to_reset(utility, "proportional", 0.13, source).sum()) for _ in range(400)]
    assert set(counts) == {1, 2}
    assert sum(counts) / 400 == pytest.approx(1.3, abs=0.08)


@pytest.mark.parametrize("decay", [0.0, 0.6])
@pytest.mark.parametrize("utility", ["gradient", "magnitude"])
@pytest.mark.parametrize("layout", SPECS)
def test_against_plain_loops(layout: str, utility: str, decay: float) -> None:
    # ``mean`` makes the new values known: 0, or the constant of a tensor that starts as one.
    settings: dict[str, Any] = {"factor": 0.4, "utility": utility, "decay": decay, "fresh": "mean", "every_updates": 3}
    part, plain = build(layout, optimizer="sgd", **settings), build(layout, treated=False, optimizer="sgd")
    averages: dict[str, Tensor] = {}
    for step in range(1, 8):
        logs = update(part, step)
        update(plain, step)
        count = 0
        for name, value in plain.network.named_parameters():
            if name in plain.network.norm_parameters:
                continue
            gradient = value.grad if value.grad is not None else torch.zeros_like(value)
            now = (value * gradient if utility == "gradient" else value).detach().abs()
            averages[name] = decay * averages.get(name, torch.zeros_like(now)) + (1 - decay) * now
            if step % 3 == 0:
                mask = averages[name] <= 0.4 * averages[name].mean()
                start = plain.network.initialisers[name]
                with torch.no_grad():
                    value[mask] = start.scale if start.kind == "constant" else 0.0
                count += int(mask.sum())
                averages[name] *= 0.0 if mask.any() else 1.0
        assert logs == ({f"{NAME}/weights_reset": count} if step % 3 == 0 else {})
        for (name, value), other in zip(part.network.named_parameters(), plain.network.parameters(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=f"{step} {name}")


@pytest.mark.parametrize("layout", ["mlp", "conv", "resnet"])
def test_fresh_values_come_from_each_tensors_own_distribution(layout: str) -> None:
    part = build(layout, factor=1.0, pruning="proportional", every_updates=1)
    for step in range(2):
        update(part, step)
    one = values(part)
    update(part, 2)
    for name, value in values(part).items():
        start = part.network.initialisers[name]
        if name in part.network.norm_parameters:
            continue
        if start.kind == "uniform":
            assert value.abs().max() <= start.scale
            assert not torch.equal(value, one[name])
        else:
            assert (value == start.scale).all()


@pytest.mark.parametrize("policy", ["keep", "zero", "restart"])
def test_optimizer_state_of_the_written_entries(policy: str) -> None:
    part = build(factor=0.5, optimizer_state=policy, pruning="proportional", every_updates=3, fresh="mean")
    for step in range(1, 4):
        update(part, step)
    weight = part.network.tensor("torso.layers.dense_1.linear.weight")
    written = weight == 0.0
    assert written.sum() == 9
    moments = part.optimizer.state[weight]["exp_avg_sq"]
    assert bool((moments[written] == 0).all()) == (policy != "keep")
    assert bool((moments[~written] != 0).any())


def test_include_all_gives_gains_their_start_back() -> None:
    part = build(factor=1.0, pruning="proportional", include="all", every_updates=2)
    update(part, 1)
    gain = part.network.tensor("torso.layers.dense_1.norms.0.weight")
    assert (gain != 1).any()
    update(part, 2)
    assert (gain == 1).all()


@pytest.mark.parametrize("settings", [{"utility": "magnitude"}, {"decay": 0.5}])
def test_task_switch_and_resuming(settings: dict[str, Any]) -> None:
    whole, half = (build("conv", at_task_switch=True, factor=0.3, **settings) for _ in range(2))
    for step in range(3):
        update(whole, step)
        update(half, step)
    resumed = build("conv", at_task_switch=True, factor=0.3, **settings)
    resumed.load_state_dict(deepcopy(half.state_dict()))
    for part in (whole, resumed):
        before = values(part)
        assert part.task_switch(1)[f"{NAME}/weights_reset"] > 0
        assert any(not torch.equal(value, before[name]) for name, value in values(part).items())
        update(part, 9)
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True))


def test_a_compiled_update_has_gradients_too() -> None:
    spec, inputs, head, _ = SPECS["mlp"]
    make = {NAME: lambda: SelectiveWeightReinitialisation(factor=0.4, every_updates=1)}
    part = PartBuilder(spec, inputs, torch.float32, OptimizerSettings("sgd", 0.05), make, execution=Execution(compile=True))(
        "q", head
    )
    assert part._rule is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"utility": "age"}, r"utility=age is unknown; choose from gradient, magnitude"),
        ({"pruning": "all"}, r"pruning=all is unknown"),
        ({"pruning": "proportional", "factor": 1.5}, r"factor=1\.5 must be between 0 and 1"),
        ({"decay": 1.0}, r"decay=1\.0 must be at least 0 and below 1"),
        ({"fresh": "old"}, r"fresh=old is unknown"),
        ({"at_task_switch": True}, r"at_task_switch=true needs decay above 0 or utility=magnitude"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectiveWeightReinitialisation(**settings)
