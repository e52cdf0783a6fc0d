"""What loops do with optimizers and modules besides training: other types, loading, copying, wrapping."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from plasticity.adopt import AdoptedOptimizer, adopt, measure
from plasticity.interventions.methods.continual_backprop import ContinualBackprop
from plasticity.interventions.methods.redo import ReDo

INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randn(64, 2, generator=torch.Generator().manual_seed(2))


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


def replacing() -> ContinualBackprop:
    return ContinualBackprop(replacement_rate=0.05, maturity_updates=3)


def train(module: nn.Module, optimizer: Any, steps: range, scheduler: Any = None) -> None:
    kind = next(module.parameters()).dtype
    for step in steps:
        rows = slice(step * 8 % 64, step * 8 % 64 + 8)
        optimizer.zero_grad()
        functional.mse_loss(module(INPUTS[rows].to(kind)), TARGETS[rows].to(kind)).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def require_same(one: nn.Module, other: nn.Module) -> None:
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_scheduler_goes_on_after_loading_whichever_optimizer_it_was_built_on(kind: Any, before: bool) -> None:
    def made() -> tuple[nn.Module, AdoptedOptimizer, Any]:
        module = net()
        given = kind(module.parameters(), 0.01)
        adopted = adopt(module, given, [replacing()], INPUTS)
        return module, adopted, torch.optim.lr_scheduler.StepLR(given if before else adopted, 3, 0.5)

    module, optimizer, scheduler = made()
    train(module, optimizer, range(15), scheduler)
    saved = copy.deepcopy((module.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    train(module, optimizer, range(15, 30), scheduler)
    other = made()
    for holder, state in zip(other, saved, strict=True):
        holder.load_state_dict(state)
    train(other[0], other[1], range(15, 30), other[2])
    require_same(module, other[0])
    assert other[1].param_groups[0]["lr"] == 0.01 * 0.5**10


def test_groups_and_state_are_those_of_the_given_optimizer_after_loading_too() -> None:
    module = net()
    given = torch.optim.Adam(module.parameters())
    optimizer = adopt(module, given, [replacing()], INPUTS)
    train(module, optimizer, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    assert given.param_groups[0] is optimizer.param_groups[0]
    assert given.state is optimizer.state is optimizer.base.state
    given.param_groups[0]["lr"] = 0.0
    before = copy.deepcopy(module[4].bias)  # type: ignore[index]
    train(module, optimizer, range(2))
    assert torch.equal(module[4].bias, before)  # type: ignore[index]


@pytest.mark.parametrize("through", ["given", "adopted"])
def test_parameters_that_are_added_later_are_trained(through: str) -> None:
    module, later = net(), nn.Linear(2, 1)
    given = torch.optim.Adam(module.parameters())
    optimizer = adopt(module, given, [replacing()], INPUTS)
    {"given": given, "adopted": optimizer}[through].add_param_group({"params": later.parameters(), "lr": 0.1})
    before = later.weight.detach().clone()
    later(module(INPUTS)).sum().backward()
    optimizer.step()
    assert not torch.equal(later.weight, before)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", [replacing, lambda: ReDo(every_updates=3, threshold=0.5)])
def test_modules_of_other_types(method: Callable[[], Any], kind: torch.dtype) -> None:
    module = net().to(kind)
    optimizer = adopt(module, torch.optim.Adam(module.parameters()), [method()], INPUTS.to(kind))
    resets = 0.0
    for step in range(12):
        train(module, optimizer, range(step, step + 1))
        resets += sum(float(value) for key, value in optimizer.logs.items() if key.endswith("units_reset"))
    assert resets > 0
    assert all(parameter.dtype == kind for parameter in module.parameters())


def test_layers_that_saw_different_numbers_of_rows() -> None:
    """The encoder is used a second time for a loss of its own."""
    module = net()
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.1), [replacing()], INPUTS)
    for _ in range(12):
        optimizer.zero_grad()
        (module(INPUTS[:8]).sum() + module[0](INPUTS[8:12]).sum()).backward()  # type: ignore[index]
        optimizer.step()
    method = optimizer.methods["continual_backprop"]
    assert set(method.state["0/age"].tolist()) != {0.0}


def test_an_adopted_optimizer_is_not_copied() -> None:
    module = net()
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.1), [replacing()], INPUTS)
    with pytest.raises(TypeError, match="save its state_dict"):
        copy.deepcopy(optimizer)


def test_what_cannot_be_adopted_is_said_in_a_line() -> None:
    module = net()
    with pytest.raises(ValueError, match=r"^LBFGS runs the loss as often as it likes in one step"):
        adopt(module, torch.optim.LBFGS(module.parameters()), [replacing()], INPUTS)
    hidden = nn.DataParallel(module)
    with pytest.raises(ValueError, match=r"^DataParallel hides the module that it runs: adopt that one, module\.module$"):
        adopt(hidden, torch.optim.SGD(module.parameters(), 0.1), [replacing()], INPUTS)
    weights = [parameter for parameter in module.parameters() if parameter.ndim == 2]
    with pytest.raises(ValueError, match=r"one by one: 0: 16 units are left alone: what makes it, 0\.bias, is not trained"):
        adopt(module, torch.optim.SGD(weights, 0.1), [replacing()], INPUTS)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())


class Skipping(nn.Module):
    """Its last map reads units and, behind them, the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(12, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.b(torch.cat([functional.relu(self.a(inputs)), inputs], 1))
        return outputs


def test_a_reader_that_has_columns_for_other_inputs_too() -> None:
    module = Skipping()
    optimizer = adopt(module, torch.optim.Adam(module.parameters()), [replacing()], INPUTS)
    kept = module.b.weight.detach()[:, 8:].clone()
    for step in range(40):
        optimizer.zero_grad()
        module(INPUTS).square().mean().backward()
        module.b.weight.grad[:, 8:] = 0  # type: ignore[index]
        optimizer.step()
        assert step < 10 or optimizer.logs
    assert torch.equal(module.b.weight[:, 8:], kept)


def test_an_activation_that_is_recorded_at_its_own_input() -> None:
    """Between the map and its non-linearity is a dropout, so that the non-linearity's input is what is seen."""
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2))
    found = measure(module, INPUTS, ["dormant_fraction", "feature_norm"])
    expected = functional.relu(module[0](INPUTS)).norm(dim=1).mean().detach()
    assert found["feature_norm"] == pytest.approx(float(expected))


def test_features_that_no_module_shows_are_refused_in_a_line() -> None:
    class Normalised(Skipping):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.b(torch.cat([functional.softmax(self.a(inputs), 1), inputs], 1))
            return outputs

    module = Normalised()
    with pytest.raises(ValueError, match=r"one by one: a: 8 units are left alone: read by softmax \(intervention srank acts on"):
        adopt(module, torch.optim.SGD(module.parameters(), 0.1), ["srank"], INPUTS)


def test_a_network_of_convolutions_alone_needs_them_to_be_perturbed() -> None:
    module = nn.Sequential(nn.Conv1d(1, 3, 2), nn.ReLU(), nn.Conv1d(3, 1, 2))
    with pytest.raises(ValueError, match=r"^perturb_by_dormancy\.convolutions=false leaves nothing"):
        adopt(module, torch.optim.SGD(module.parameters(), 0.1), ["perturb_by_dormancy"], torch.zeros(2, 1, 6))
