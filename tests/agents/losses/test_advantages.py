from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.losses.advantages import generalised_advantages

NAMES = ("rewards", "values", "next_values", "terminated", "truncated")


def naive(data: dict[str, Tensor], discount: float, trace_decay: float) -> list[list[float]]:
    """Sums (gamma lambda)^l delta_{t + l} forward from each step until an episode ends, in Python's floats."""
    columns = {name: values.T.tolist() for name, values in data.items()}
    rows = []
    for index in range(data["rewards"].shape[1]):
        r, v, following, terminated, truncated = (columns[name][index] for name in NAMES)
        row = []
        for start in range(len(r)):
            total, weight = 0.0, 1.0
            for step in range(start, len(r)):
                bootstrap = 0.0 if terminated[step] else discount * following[step]
                total += weight * (r[step] + bootstrap - v[step])
                weight *= discount * trace_decay
                if terminated[step] or truncated[step]:
                    break
            row.append(total)
        rows.append(row)
    return rows


def column(*values: Any) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


@pytest.mark.parametrize("discount", [1.0, 0.99])
@pytest.mark.parametrize("trace_decay", [1.0, 0.9])
@pytest.mark.parametrize("episodes", [1, 3])
def test_one_terminal_reward_in_closed_form(discount: float, trace_decay: float, episodes: int) -> None:
    # Value 0 everywhere and reward 1 at the end: A_t = (gamma lambda)^(steps to go), the same in every episode.
    length = 8
    rewards = torch.zeros(length * episodes, 1)
    rewards[length - 1 :: length] = 1.0
    ends, none = rewards.bool(), torch.zeros(length * episodes, 1)
    advantages = generalised_advantages(rewards, none, none, ends, none.bool(), discount, trace_decay)
    expected = [(discount * trace_decay) ** (length - 1 - step) for step in range(length)] * episodes
    assert advantages.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("discount", [1.0, 0.99])
@pytest.mark.parametrize("trace_decay", [1.0, 0.9])
def test_a_constant_value_in_closed_form(discount: float, trace_decay: float) -> None:
    # Value c everywhere: with lambda 1, A_t = gamma^k - c at k steps to go. In general
    # A_t = (g l)^k (1 - c) + (g c - c) (1 - (g l)^k) / (1 - g l), which for g l = 1 is 1 - c.
    length, c = 5, 0.5
    rewards = torch.zeros(length, 1)
    rewards[-1] = 1.0
    value = torch.full((length, 1), c)
    advantages = generalised_advantages(rewards, value, value, rewards.bool(), value > 1, discount, trace_decay)
    both = discount * trace_decay
    for step, advantage in enumerate(advantages.flatten().tolist()):
        k = length - 1 - step
        geometric = k if both == 1 else (1 - both**k) / (1 - both)
        assert advantage == pytest.approx(both**k * (1 - c) + (discount * c - c) * geometric, abs=1e-6)
        if trace_decay == 1:
            assert advantage == pytest.approx(discount**k - c, abs=1e-6)


def test_truncation_bootstraps_and_cuts_the_trace_by_hand() -> None:
    # gamma = lambda = 1/2. Deltas: 1 + 4/2 - 1 = 2; truncated: 1 + 8/2 - 1 = 4; terminated: 1 - 1 = 0, regardless of what
    # follows.
    no = False
    advantages = generalised_advantages(
        column(1.0, 1.0, 1.0),
        column(1.0, 1.0, 1.0),
        column(4.0, 8.0, 100.0),
        column(no, no, True),
        column(no, True, no),
        0.5,
        0.5,
    )
    # A_2 = 0; A_1 = 4, nothing of A_2; A_0 = 2 + 4/4.
    assert advantages.flatten().tolist() == [3.0, 4.0, 0.0]


def test_the_end_of_a_rollout_bootstraps() -> None:
    no = column(False)
    assert generalised_advantages(column(1.0), column(3.0), column(10.0), no, no, 0.5, 0.9).tolist() == [[3.0]]


@pytest.mark.parametrize(("discount", "trace_decay"), [(1.0, 1.0), (0.99, 0.95), (0.9, 0.0), (0.5, 0.3), (0.0, 0.9)])
def test_agrees_with_loops(discount: float, trace_decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 40, 3, generator=generator)
    chance = torch.rand(2, 40, 3, generator=generator) < 0.15
    data = dict(zip(NAMES, (*numbers, chance[0], chance[1]), strict=True))  # both at once as well
    advantages = generalised_advantages(**data, discount=discount, trace_decay=trace_decay)
    expected = torch.tensor(naive(data, discount, trace_decay)).T
    torch.testing.assert_close(advantages, expected, rtol=1e-5, atol=1e-5)


def test_a_next_value_that_is_not_finite_does_not_matter_after_a_terminal() -> None:
    ends, no = column(True), column(False)
    assert generalised_advantages(column(1.0), column(0.0), column(float("nan")), ends, no, 0.9, 0.9).tolist() == [[1.0]]
