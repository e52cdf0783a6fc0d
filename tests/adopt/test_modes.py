"""What a module does in one mode alone, and what it keeps: finding units and measuring leave both as they were."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.adopt import measure, probe
from plasticity.adopt.finding import find_units
from plasticity.metrics.probe import ProbeSettings


class Auxiliary(nn.Module):
    """Has a second head while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Any:
        hidden = functional.relu(self.a(inputs))
        outputs = self.c(functional.relu(self.b(hidden)))
        return (outputs, self.d(hidden)) if self.training else outputs


class Keeping(nn.Module):
    """Keeps a running mean of its inputs in either mode, and its latest features."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.a, self.norm, self.drop, self.b = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)
        self.features: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(inputs.detach().mean(0) * 0.1)
        self.features = functional.relu(self.norm(self.a(inputs - self.mean)))
        outputs: Tensor = self.b(self.drop(self.features))
        return outputs


def test_a_layer_with_another_reader_in_training_is_left_alone() -> None:
    found = find_units(Auxiliary(), torch.randn(6, 4), None)
    assert found.units.names == ("b",)
    assert found.units.excluded[0].name == "a"
    assert found.units.excluded[0].reason == "in training mode it is read otherwise than in evaluation mode"
    assert find_units(Auxiliary(), torch.randn(6, 4), None, evaluated=True).units.names == ("a", "b")


def test_finding_and_measuring_leave_modes_buffers_attributes_and_generators() -> None:
    module, inputs = Keeping().train(), torch.randn(20, 4) + 1
    module.drop.eval()
    modes = [each.training for each in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    generator = torch.get_rng_state()
    found = find_units(module, inputs, None)
    assert found.units.names == ("a",)
    measure(module, inputs, ["dormant_fraction", "effective_rank"])
    probe(module, inputs, ProbeSettings(steps=2, inputs=20))
    assert [each.training for each in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert module.features is None
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_hook_that_changes_what_a_module_hands_on_leaves_its_units_alone() -> None:
    module, seen = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)), []
    module[1].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.shape))
    assert find_units(module, torch.randn(6, 4), None).units.names == ("0",)
    module[1].register_forward_hook(lambda module, inputs, outputs: outputs.flip(1))
    found = find_units(module, torch.randn(6, 4), None)
    assert [each.reason for each in found.units.excluded] == ["changed by a hook on 1"]
