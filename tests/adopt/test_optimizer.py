"""An adopted optimizer is an optimizer, whatever a loop does with it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plasticity.adopt import adopt
from plasticity.interventions.methods.continual_backprop import ContinualBackprop
from plasticity.interventions.methods.l2 import L2
from plasticity.interventions.methods.l2_init import L2Init
from plasticity.interventions.methods.redo import ReDo
from plasticity.interventions.methods.sam import SAM
from plasticity.optimizers.unit_adam import UnitAdam


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 4, generator=generator), torch.randn(16, 2, generator=generator)) for _ in range(count)]


def updates(module: nn.Module, optimizer: Any, data: list[tuple[Tensor, Tensor]], scheduler: Any = None) -> None:
    for inputs, targets in data:
        optimizer.zero_grad()
        (module(inputs) - targets).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


@pytest.mark.parametrize("max_norm", [1.0, None])
def test_the_bound_comes_behind_the_methods(max_norm: float | None) -> None:
    """g = (3, 4) and p = (3, 4) with L2 of .1: the joint gradient is (3.3, 4.4), and bounded by 1 it is (.6, .8)."""
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, 4.0]]))
    optimizer = adopt(
        module, torch.optim.SGD(module.parameters(), 1.0), [L2(coefficient=0.1)], torch.zeros(2, 2), max_gradient_norm=max_norm
    )
    optimizer.zero_grad()
    module(torch.tensor([[3.0, 4.0]])).sum().backward()
    if max_norm is None:  # bounded by the loop, before the method: (.6, .8) + (.3, .4)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    expected = [3 - 0.6, 4 - 0.8] if max_norm else [3 - 0.9, 4 - 1.2]
    assert torch.allclose(module.weight, torch.tensor([expected]), atol=1e-6)


def test_adam_restarts_single_entries_as_the_testbeds_does() -> None:
    """200 updates with 20 resets: the same module with UnitAdam, and with torch.optim.Adam."""
    method = ContinualBackprop(replacement_rate=0.01, maturity_updates=10)
    ours, theirs = net(), net()
    first = adopt(ours, UnitAdam(ours.parameters(), lr=1e-2, fused=True), [method], torch.zeros(2, 4))
    second = adopt(theirs, torch.optim.Adam(theirs.parameters(), lr=1e-2, fused=True), [method], torch.zeros(2, 4))
    assert isinstance(second.base, UnitAdam)
    resets = 0.0
    for batch in batches(200):
        updates(ours, first, [batch])
        updates(theirs, second, [batch])
        resets += float(second.logs["continual_backprop/units_reset"])
    assert resets >= 20
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("settings", [{"amsgrad": True}, {"maximize": True}])
def test_an_adam_of_another_kind_is_refused(settings: dict[str, bool]) -> None:
    module = net()
    with pytest.raises(
        ValueError, match=rf"cannot restart single entries of Adam\({next(iter(settings))}=True\); choose keep or"
    ):
        adopt(module, torch.optim.Adam(module.parameters(), **settings), ["continual_backprop"], torch.zeros(2, 4))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_without_resets_the_base_steps_as_ever(kind: type[torch.optim.Adam]) -> None:
    plain, adopted = net(), net()
    base = kind(plain.parameters(), lr=1e-2)
    optimizer = adopt(adopted, kind(adopted.parameters(), lr=1e-2), [ContinualBackprop(replacement_rate=0.0)], torch.zeros(2, 4))
    updates(plain, base, batches(20))
    updates(adopted, optimizer, batches(20))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), adopted.parameters(), strict=True))


@pytest.mark.parametrize("before", [True, False])
def test_schedulers_change_the_rate_whichever_optimizer_they_were_built_on(before: bool) -> None:
    module = net()
    base = torch.optim.Adam(module.parameters(), lr=1.0)
    early = torch.optim.lr_scheduler.StepLR(base, 1, 0.5) if before else None
    optimizer = adopt(module, base, ["continual_backprop"], torch.zeros(2, 4))
    scheduler = early or torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    updates(module, optimizer, batches(3), scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125]
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.125]


def test_what_a_method_adds_to_the_loss_needs_backward() -> None:
    module = net()
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.1), ["srank"], torch.zeros(2, 4))
    module(torch.randn(8, 4)).sum().backward()
    with pytest.raises(
        ValueError, match=r"srank adds to the loss: call optimizer.backward\(loss\) in place of loss.backward\(\)"
    ):
        optimizer.step()


def test_a_method_that_needs_the_loss_again_takes_it_from_the_closure() -> None:
    """f(p) = p^2 / 2 from p = 2 with radius .5: the gradient at 2.5 is taken, and the step of .1 goes to 1.75."""
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(2.0)
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.1), [SAM(radius=0.5)], torch.zeros(2, 1))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module(torch.ones(1, 1)).square().sum() / 2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(2.0)
    assert float(module.weight) == pytest.approx(1.75)
    module(torch.ones(1, 1)).sum().backward()
    with pytest.raises(ValueError, match="sam needs the loss a second time"):
        optimizer.step()


def test_the_state_goes_on_bit_for_bit(tmp_path: Any) -> None:
    methods = [ContinualBackprop(replacement_rate=0.05, maturity_updates=3), L2Init(coefficient=1e-2)]
    data = batches(30)
    whole = net()
    optimizer = adopt(whole, torch.optim.Adam(whole.parameters(), 1e-2), methods, torch.zeros(2, 4))
    updates(whole, optimizer, data[:15])
    torch.save({"module": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    updates(whole, optimizer, data[15:])
    again = net()
    other = adopt(again, torch.optim.Adam(again.parameters(), 1e-2), methods, torch.zeros(2, 4))
    state = torch.load(tmp_path / "state.pt", weights_only=False)
    again.load_state_dict(state["module"])
    other.load_state_dict(state["optimizer"])
    updates(again, other, data[15:])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert other.steps == 30
    with pytest.raises(ValueError, match="the state is of an optimizer without methods"):
        other.load_state_dict(torch.optim.Adam(net().parameters()).state_dict())


def test_a_gradient_scaler_unscales_before_the_methods_look() -> None:
    plain, scaled = net(), net()
    first = adopt(plain, torch.optim.SGD(plain.parameters(), 0.1), [L2(coefficient=0.1)], torch.zeros(2, 4))
    second = adopt(scaled, torch.optim.SGD(scaled.parameters(), 0.1), [L2(coefficient=0.1)], torch.zeros(2, 4))
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for inputs, targets in batches(5):
        updates(plain, first, [(inputs, targets)])
        second.zero_grad()
        scaler.scale((scaled(inputs) - targets).square().mean()).backward()
        scaler.step(second)
        scaler.update()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain.parameters(), scaled.parameters(), strict=True))


def test_a_step_without_gradients_is_no_update() -> None:
    module = net()
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.1), [ReDo(every_updates=1)], torch.zeros(2, 4))
    optimizer.step()
    assert optimizer.steps == 0
    updates(module, optimizer, batches(1))
    assert optimizer.steps == 1
    assert "redo/units_reset" in optimizer.logs


def test_a_reset_copies_itself_to_the_target_if_told_so() -> None:
    from copy import deepcopy

    from plasticity.interventions.methods.reset import Reset

    module = net()
    target = deepcopy(module)
    method = Reset(every_updates=1, last_layers=0, copies=True)
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.1), [method], torch.zeros(2, 4), copies={"target": target})
    before = [value.detach().clone() for value in module.parameters()]
    updates(module, optimizer, batches(1))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), target.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ("redo", r"methods='redo' must be a list, \['redo'\]"),
        (["redoo"], "redoo"),
        (["redo", "redo"], "methods: redo is there twice"),
        ([3], "methods: 3 is neither the name of an intervention nor an instance of one"),
        (
            ["layer_norm"],
            "layer_norm changes the structure of a network, and must be built into the module: it cannot be adopted",
        ),
    ],
)
def test_wrong_methods_are_a_line(methods: Any, told: str) -> None:
    module = net()
    with pytest.raises(ValueError, match=told):
        adopt(module, torch.optim.SGD(module.parameters(), 0.1), methods, torch.zeros(2, 4))


def test_a_compiled_module_and_a_foreign_optimizer_are_refused() -> None:
    module, other = net(), net()
    with pytest.raises(ValueError, match="adopt it first, then compile it"):
        adopt(torch.compile(module), torch.optim.SGD(module.parameters(), 0.1), ["redo"], torch.zeros(2, 4))
    with pytest.raises(ValueError, match="the optimizer holds no parameter of the module Sequential"):
        adopt(module, torch.optim.SGD(other.parameters(), 0.1), ["redo"], torch.zeros(2, 4))
