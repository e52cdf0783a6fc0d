from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.shrink_and_perturb import ShrinkAndPerturb, shrink_and_perturb
from plasticity.interventions.surgery.fresh_draws import FreshDraws
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SPECS = {
    "mlp": (MLPSpec(widths=[5, 4], normalisation=["layer"]), (3,)),
    "conv": (ConvSpec(widths=[4], channels=[3], normalisation=["layer"], initialiser="kaiming_uniform"), (1, 4, 4)),
    "orthogonal": (MLPSpec(widths=[5, 4], initialiser="orthogonal"), (3,)),
}


def build(layout: str = "mlp", seed: int = 0, optimizer: str = "adam", treated: bool = True, **settings: Any) -> Updater:
    spec, inputs = SPECS[layout]
    methods = {"shrink_and_perturb": lambda: ShrinkAndPerturb(**settings)} if treated else {}
    return PartBuilder(spec, inputs, torch.float32, OptimizerSettings(optimizer, 0.05, momentum=0.9), methods, seed)(
        "q", HeadSpec("regression", 2)
    )


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.step(part.forward(inputs).square().mean(), None)


def values(part: Updater) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in part.network.named_parameters()}


def test_function_by_hand() -> None:
    # 0.5 * (2, -4) + 0.25 * (4, 8) = (2, 0) and 0.5 * 8 - 0.25 * 4 = 3.
    parameters = [torch.tensor([2.0, -4.0]), torch.tensor([[8.0]])]
    shrink_and_perturb(parameters, [torch.tensor([4.0, 8.0]), torch.tensor([[-4.0]])], 0.5, 0.25)
    assert [value.tolist() for value in parameters] == [[2.0, 0.0], [[3.0]]]


@pytest.mark.parametrize("layout", ["mlp", "conv", "orthogonal"])
def test_noise_has_each_tensors_own_distribution(layout: str) -> None:
    # Shrink 0, perturb 1: the parameters become a fresh draw of the network's initial distribution.
    part = build(layout, shrink=0.0, perturb=1.0)
    for _ in range(2):
        before = values(part)
        part.task_switch(1)
        for name, value in part.network.named_parameters():
            kind, scale = part.network.initialisers[name].kind, part.network.initialisers[name].scale
            if name in part.network.norm_parameters:
                assert torch.equal(value, before[name])
            elif kind == "constant":
                assert (value == scale).all()
            elif kind == "uniform":
                assert (0.5 * scale if value.numel() > 9 else 0) < value.abs().max() <= scale
                assert not torch.equal(value, before[name])
            else:
                rows = value if value.shape[0] <= value.shape[1] else value.T
                torch.testing.assert_close(rows @ rows.T, scale**2 * torch.eye(rows.shape[0]), rtol=1e-4, atol=1e-5)


def test_gaussian_noise_is_standard_normal() -> None:
    part = PartBuilder(
        MLPSpec(widths=[200]),
        (100,),
        torch.float32,
        OptimizerSettings(),
        {"s": lambda: ShrinkAndPerturb(0.0, 1.0, "gaussian")},
    )("q", HeadSpec("q", 2))
    part.task_switch(1)
    weight = part.network.tensor("torso.layers.dense_1.linear.weight")
    # 20,000 draws: standard error of the mean 0.007, of the deviation 0.005.
    assert weight.mean().item() == pytest.approx(0.0, abs=0.03)
    assert weight.std().item() == pytest.approx(1.0, abs=0.03)
    assert weight.abs().max() > 3


@pytest.mark.parametrize("noise", ["initial", "gaussian"])
@pytest.mark.parametrize("layout", ["mlp", "conv"])
def test_against_plain_arithmetic(layout: str, noise: str) -> None:
    # One run only measures the noise: with shrink 0 and perturb 1 and the same generator it leaves the noise behind.
    treated = build(layout, shrink=0.7, perturb=0.3, noise=noise, every_updates=2)
    plain = build(layout, treated=False)
    noises = build(layout, shrink=0.0, perturb=1.0, noise=noise, every_updates=2)
    for step in range(1, 7):
        logs = update(treated, step)
        update(plain, step)
        update(noises, step)
        assert logs == ({"shrink_and_perturb/applied": 1.0} if step % 2 == 0 else {})
        if step % 2 == 0:
            with torch.no_grad():
                for name, value in plain.network.named_parameters():
                    if name not in plain.network.norm_parameters:
                        value.copy_(0.7 * value + 0.3 * noises.network.tensor(name))
        for name, value in plain.network.named_parameters():
            torch.testing.assert_close(treated.network.tensor(name), value, rtol=1e-3, atol=1e-5, msg=name)


def test_shrinking_alone_by_hand() -> None:
    part = build(shrink=0.6, perturb=0.0)
    before = values(part)
    assert part.task_switch(1) == {"shrink_and_perturb/applied": 1.0}
    for name, value in part.network.named_parameters():
        torch.testing.assert_close(value, before[name] * (1.0 if name in part.network.norm_parameters else 0.6))


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6]), (7, [7])])
def test_period(every: int, expected: list[int]) -> None:
    part = build(every_updates=every)
    assert [step for step in range(1, 8) if update(part, step)] == expected


@pytest.mark.parametrize("at_task_switch", [True, False])
def test_task_switch(at_task_switch: bool) -> None:
    part = build(at_task_switch=at_task_switch)
    before = values(part)
    logs = part.task_switch(1)
    changed = any(not torch.equal(value, before[name]) for name, value in part.network.named_parameters())
    assert changed == at_task_switch == bool(logs)


def test_draws_are_private_and_new_each_time() -> None:
    def noises(seed: int) -> list[Tensor]:
        part = build(seed=seed, shrink=0.0, perturb=1.0)
        drawn = []
        for _ in range(3):
            part.task_switch(1)
            drawn.append(part.network.tensor("head.linear.weight").detach().clone())
        return drawn

    torch.manual_seed(1)
    one = noises(0)
    torch.manual_seed(2)
    two, other = noises(0), noises(1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[1], one[2])


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("policy", ["keep", "zero", "restart"])
def test_optimizer_state(policy: str, optimizer: str) -> None:
    part, plain = build(optimizer=optimizer, optimizer_state=policy), build(optimizer=optimizer, treated=False)
    for step in range(3):
        update(part, step)
        update(plain, step)
    part.task_switch(1)
    for (name, parameter), other in zip(part.network.named_parameters(), plain.network.parameters(), strict=True):
        state, kept = part.optimizer.state[parameter], plain.optimizer.state[other]
        touched = policy != "keep"  # normalisation too: the optimizer is rebuilt
        for key, value in kept.items():
            moment = value.shape == parameter.shape
            if touched and (moment or policy == "restart"):
                # A restarted tensor may have no entry at all, which is how a fresh optimizer begins.
                assert key not in state or not bool(torch.as_tensor(state[key]).any()), (name, key)
            else:
                assert torch.equal(state[key], value), (name, key)


def test_restart_makes_the_next_step_that_of_a_fresh_adam() -> None:
    # Adam's first step is the learning rate times the sign of the gradient.
    part = build("mlp", shrink=0.9, perturb=0.1, optimizer_state="restart")
    for step in range(30):
        update(part, step)
    part.task_switch(1)
    before = values(part)
    update(part, 99)
    for name in ("head.linear.weight", "torso.layers.dense_1.linear.weight"):
        gradient = part.network.tensor(name).grad
        assert gradient is not None
        moved = before[name] - part.network.tensor(name).detach()
        large = gradient.abs() > 1e-5
        torch.testing.assert_close(moved[large], 0.05 * gradient.sign()[large], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shrink": -0.1}, r"shrink_and_perturb\.shrink=-0\.1 must be between 0 and 1"),
        ({"shrink": 1.1}, r"shrink_and_perturb\.shrink=1\.1 must be between 0 and 1"),
        ({"perturb": -0.1}, r"shrink_and_perturb\.perturb=-0\.1 must be at least 0"),
        ({"noise": "uniform"}, r"shrink_and_perturb\.noise=uniform is unknown; choose from initial, scaled, gaussian"),
        ({"every_updates": -1}, r"shrink_and_perturb\.every_updates=-1 must be at least 0"),
        ({"optimizer_state": "clear"}, r"optimizer_state=clear is unknown; choose from keep, zero, restart"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShrinkAndPerturb(**settings)


# Published forms


@pytest.mark.parametrize("layout", ["mlp", "conv"])
def test_soft_form_keeps_the_share_it_should(layout: str) -> None:
    # 40 times p <- 0.9 p + 0.1 q with q symmetric around 0: 0.9^40 = 0.0148 of the start is left, the rest is q.
    part = build(layout, shrink=0.9, perturb=0.1, every_updates=1, optimizer_state="keep")
    silent = build(layout, shrink=0.0, perturb=0.1, every_updates=1)
    part.optimizer.param_groups[0]["lr"] = silent.optimizer.param_groups[0]["lr"] = 0.0
    expected = {name: value.double() for name, value in values(part).items()}
    for step in range(40):
        update(part, step)
        update(silent, step)
        for name, noise in values(silent).items():
            if name not in part.network.norm_parameters:
                expected[name] = 0.9 * expected[name] + noise.double()
    for name, value in values(part).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)


def test_kinds_of_noise() -> None:
    like = {"u": torch.empty(60, 50), "n": torch.empty(70, 40), "o": torch.empty(80, 40), "c": torch.empty(9)}
    starts = {
        "u": Initialiser("uniform", 0.3),
        "n": Initialiser("normal", 0.2),
        "o": Initialiser("orthogonal", 2.0),
        "c": Initialiser("constant", 1.5),
    }

    def draw(noise: str) -> dict[str, Tensor]:
        return dict(zip(like, FreshDraws(like, starts, noise).draw(torch.Generator().manual_seed(0)), strict=True))

    initial, scaled, gaussian = (draw(noise) for noise in ("initial", "scaled", "gaussian"))
    assert 0.29 < initial["u"].abs().max() <= 0.3
    torch.testing.assert_close(initial["o"].T @ initial["o"], 4 * torch.eye(40), rtol=1e-4, atol=1e-4)
    for drawn in (initial, scaled):
        # 0.3 / sqrt 3, 0.2, and 2 / sqrt 80; the standard error of a deviation from 2800 draws is 1.3 %.
        for name, deviation in (("u", 0.1732), ("n", 0.2), ("o", 0.2236)):
            assert drawn[name].std().item() == pytest.approx(deviation, rel=0.06)
            assert drawn[name].mean().item() == pytest.approx(0.0, abs=0.02)
        assert (drawn["c"] == 1.5).all()
    assert scaled["u"].abs().max() > 0.4
    assert all(0.8 < gaussian[name].std().item() < 1.2 for name in ("u", "n", "o"))


def test_draws_have_the_layout_of_the_parameters_and_do_not_overlap() -> None:
    like = {"a": torch.empty(2, 3, 4, 4).to(memory_format=torch.channels_last), "b": torch.empty(5, 7)}
    draws = FreshDraws(like, dict.fromkeys(like, Initialiser("normal", 1.0)))
    one, two = draws.draw(torch.Generator().manual_seed(1))
    assert one.stride() == like["a"].stride()
    assert len({*one.flatten().tolist(), *two.flatten().tolist()}) == 96 + 35


def test_all_includes_normalisation_whose_fresh_gain_is_1() -> None:
    part = build(shrink=0.5, perturb=0.5, include="all")
    gain = part.network.tensor("torso.layers.dense_1.norms.0.weight")
    with torch.no_grad():
        gain.fill_(3.0)
    part.task_switch(1)
    assert (gain == 2.0).all()


def test_single_updates() -> None:
    part = build(at_updates=[2, 5], at_task_switch=False)
    assert [step for step in range(1, 8) if update(part, step)] == [2, 5]
    with pytest.raises(ValueError, match=r"shrink_and_perturb\.at_updates=0 must be at least 1"):
        ShrinkAndPerturb(at_updates=[0])


@pytest.mark.parametrize("copies", [True, False])
def test_target_networks(copies: bool) -> None:
    part = build(copies=copies)
    part.copies["target"] = target = deepcopy(part.network)
    old = {name: value.clone() for name, value in target.state_dict().items()}
    part.task_switch(1)
    wanted = part.network.state_dict() if copies else old
    assert all(torch.equal(value, wanted[name]) for name, value in target.state_dict().items())


def test_spectral_estimates_follow_a_large_change() -> None:
    spec = MLPSpec(widths=[6, 5], spectral_layers=[2])
    make = {"s": lambda: ShrinkAndPerturb(0.0, 1.0)}
    part = PartBuilder(spec, (3,), torch.float32, OptimizerSettings(), make)("q", HeadSpec("regression", 2))
    part.task_switch(1)
    weight = part.network.tensor("torso.layers.dense_2.linear.weight").detach()
    left, right = (part.network.tensor(f"torso.layers.dense_2.spectral.{side}") for side in ("left", "right"))
    assert (left @ weight @ right).item() == pytest.approx(torch.linalg.matrix_norm(weight, 2).item(), rel=1e-2)
