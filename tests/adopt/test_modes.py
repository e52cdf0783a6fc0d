"""What a module does in one mode alone, and what it keeps: finding units and measuring leave both as they were."""

from typing import Any

import pytest
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


class Two(nn.Module):
    """Reads two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(7, 8), nn.Linear(8, 2)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = self.b(functional.relu(self.a(torch.cat([inputs["x"], inputs["y"]], 1))))
        return outputs


def test_metrics_of_samples_want_one_tensor() -> None:
    inputs = {"x": torch.randn(20, 4), "y": torch.randn(20, 3)}
    found = measure(Two(), inputs, ["all"], targets=torch.randn(20, 2), loss=functional.mse_loss)
    assert "dormant_fraction" in found
    assert "ntk_srank" not in found
    with pytest.raises(ValueError, match=r"^gradient_cosine needs more than a module and inputs: inputs that are one tensor$"):
        measure(Two(), inputs, ["gradient_cosine"], targets=torch.randn(20, 2), loss=functional.mse_loss)


def test_a_loss_that_is_none_is_a_line() -> None:
    module, inputs = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(20, 4)
    with pytest.raises(ValueError, match=r"^targets has 19 rows and inputs 20$"):
        measure(module, inputs, targets=torch.randn(19, 2), loss=functional.mse_loss)
    with pytest.raises(ValueError, match=r"must return a number, the mean over examples, and not a tensor of shape \(20, 2\)$"):
        measure(module, inputs, targets=torch.randn(20, 2), loss=lambda one, other: (one - other) ** 2)
    with pytest.raises(ValueError, match=r"^loss= failed on outputs \(20, 2\) and targets \(20, 2\): "):
        measure(module, inputs, targets=torch.randn(20, 2), loss=functional.nll_loss)


class Words(nn.Module):
    """Reads numbers of words, or of pixels."""

    def __init__(self, cast: bool) -> None:
        super().__init__()
        self.cast, self.words, self.a, self.b = cast, nn.Embedding(10, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        read = self.words(inputs).mean(1)
        outputs: Tensor = self.b(functional.relu(self.a(read.float() if self.cast else read)))
        return outputs


def test_a_probe_of_whole_numbers_and_of_a_module_that_casts() -> None:
    inputs = torch.randint(0, 10, (40, 5))
    assert probe(Words(False), inputs, ProbeSettings(steps=2, inputs=32))["loss"] > 0
    with pytest.raises(ValueError, match=r"^probe: the module does not run in float64, as it has to for the targets"):
        probe(Words(True), inputs, ProbeSettings(steps=2, inputs=32))
