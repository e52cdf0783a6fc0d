"""The step of Adam for tensors that are no parameters: PyTorch's, and a step by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from plasticity.optimizers.adam_step import adam_step


@pytest.mark.parametrize("settings", [{"lr": 0.1}, {"lr": 0.1, "betas": (0.5, 0.8), "eps": 1e-3}], ids=str)
def test_steps_are_those_of_pytorch(settings: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.ones(3, 2), torch.ones(4), torch.ones(())]
    theirs = [nn.Parameter(value.clone()) for value in ours]
    moments = ([torch.zeros_like(value) for value in ours], [torch.zeros_like(value) for value in ours])
    reference = torch.optim.Adam(theirs, **settings)
    for step in range(1, 8):
        gradients = [torch.randn(value.shape, generator=generator) for value in ours]
        adam_step(ours, gradients, moments, step, settings["lr"], settings.get("betas", (0.9, 0.999)), settings.get("eps", 1e-8))
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        reference.step()
    for value, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value, other.detach())


def test_two_steps_by_hand() -> None:
    """Gradients 4 and 0 at betas 1/2 and 3/4, rate 1: steps 4 / (4 + 1) and (4/3) / (sqrt(48/7) + 1)."""
    value, gradient = torch.tensor([1.0], dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64)
    moments = ([torch.zeros_like(value)], [torch.zeros_like(value)])
    adam_step([value], [gradient], moments, 1, 1.0, (0.5, 0.75), 1.0)
    assert [float(entry) for entry in (moments[0][0], moments[1][0], value)] == pytest.approx([2.0, 4.0, 0.2], rel=1e-12)
    adam_step([value], [torch.zeros_like(value)], moments, 2, 1.0, (0.5, 0.75), 1.0)
    # m = 1 and v = 3; over 1 - 1/4 and 1 - 9/16 they are 4/3 and 48/7.
    expected = 0.2 - (4 / 3) / ((48 / 7) ** 0.5 + 1)
    assert [float(entry) for entry in (moments[0][0], moments[1][0], value)] == pytest.approx([1.0, 3.0, expected], rel=1e-12)
    assert torch.equal(gradient, torch.tensor([4.0], dtype=torch.float64))
