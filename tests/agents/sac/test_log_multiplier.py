from typing import Any

import pytest
import torch

from plasticity.agents.sac.log_multiplier import LogMultiplier

CPU = torch.device("cpu")


def gradients(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(("initial", "rate"), [(1.0, 3e-4), (0.1, 0.05)])
def test_steps_are_those_of_adam(initial: float, rate: float) -> None:
    multiplier = LogMultiplier(initial, rate, CPU)
    log = torch.tensor(initial).log().requires_grad_(True)
    adam = torch.optim.Adam([log], lr=rate)
    for gradient in gradients(200):
        multiplier.descend(gradient)
        log.grad = gradient.clone()
        adam.step()
        torch.testing.assert_close(multiplier.log, log.detach(), rtol=1e-5, atol=1e-6)
    assert multiplier.value.item() == pytest.approx(log.exp().item(), rel=1e-5)


def test_the_first_step_by_hand() -> None:
    # Adam's first step has the length of the step size for any gradient: against it.
    multiplier = LogMultiplier(1.0, 0.25, CPU)
    multiplier.descend(torch.tensor(-7.0))
    assert multiplier.log.item() == pytest.approx(0.25)


def test_it_continues_from_a_checkpoint(through_disk: Any) -> None:
    whole, half = (LogMultiplier(0.2, 0.01, CPU) for _ in range(2))
    steps = gradients(30)
    for gradient in steps:
        whole.descend(gradient)
    for gradient in steps[:13]:
        half.descend(gradient)
    resumed = LogMultiplier(1.0, 0.01, CPU)
    resumed.load_state_dict(through_disk(half.state_dict()))
    for gradient in steps[13:]:
        resumed.descend(gradient)
    assert torch.equal(resumed.log, whole.log)
    assert not torch.equal(half.log, whole.log)
