import pytest
import torch

from plasticity.agents.replay.n_step import n_step_returns

NO, YES = False, True


def test_windows_by_hand() -> None:
    # gamma 1/2, four steps, rewards 8 4 2 1: all four, an end after the second, one step left, an end at once.
    rewards = torch.tensor([8.0, 4.0, 2.0, 1.0]).repeat(4, 1)
    ends = torch.tensor([[NO, NO, NO, YES], [NO, YES, NO, NO], [NO, NO, NO, NO], [YES, NO, NO, NO]])
    present = torch.tensor([[YES, YES, YES, YES], [YES, YES, YES, YES], [YES, NO, NO, NO], [YES, YES, YES, YES]])
    result = n_step_returns(rewards, ends, present, 0.5)
    assert result.returns.tolist() == [8 + 2 + 0.5 + 0.125, 10.0, 8.0, 8.0]
    assert result.discounts.tolist() == [1 / 16, 1 / 4, 1 / 2, 1 / 2]
    assert result.last.tolist() == [3, 1, 0, 0]
    assert result.returns.dtype == result.discounts.dtype == torch.float32


@pytest.mark.parametrize("end", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_rewards_of_one(end: int, n: int) -> None:
    # With a reward of 1 at each step, k steps make (1 - gamma^k) / (1 - gamma).
    ends = torch.arange(1, n + 1).unsqueeze(0) == end
    result = n_step_returns(torch.ones(1, n), ends, torch.ones(1, n, dtype=torch.bool), 0.99)
    steps = min(end, n)
    assert float(result.discounts) == pytest.approx(0.99**steps, rel=1e-6)
    assert float(result.returns) == pytest.approx((1 - 0.99**steps) / 0.01, rel=1e-5)


def test_what_lies_behind_the_last_step_is_not_read() -> None:
    rewards = torch.tensor([[1.0, float("nan"), float("inf")]])
    present = torch.tensor([[YES, NO, YES]])
    result = n_step_returns(rewards, torch.zeros(1, 3, dtype=torch.bool), present, 0.9)
    assert (float(result.returns), int(result.last)) == (1.0, 0)
    ended = n_step_returns(rewards, torch.tensor([[YES, NO, NO]]), torch.ones(1, 3, dtype=torch.bool), 0.9)
    assert (float(ended.returns), int(ended.last)) == (1.0, 0)


def test_no_discount_and_full_discount() -> None:
    rewards, no, all_there = (
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.zeros(1, 3, dtype=torch.bool),
        torch.ones(1, 3, dtype=torch.bool),
    )
    assert n_step_returns(rewards, no, all_there, 0.0)[:2] == (torch.tensor([1.0]), torch.tensor([0.0]))
    assert n_step_returns(rewards, no, all_there, 1.0)[:2] == (torch.tensor([6.0]), torch.tensor([1.0]))
