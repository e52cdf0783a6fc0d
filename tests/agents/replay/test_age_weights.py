"""Draws from a replay by age: ages and probabilities by hand, exact counts, and what they leave as it is."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from plasticity.agents.replay.age_weights import AgeWeights
from plasticity.agents.replay.buffer import Replay
from plasticity.agents.replay.priorities import Priorities, PrioritisedReplay
from plasticity.envs.experience import Transitions
from plasticity.interventions.base import Intervention
from plasticity.interventions.methods.sample_weight_decay import SampleWeightDecay

CPU = torch.device("cpu")
DRAWS = 40_000


@dataclass
class ByAge(Intervention):
    """Weighs by a function of age."""

    function: Callable[[Tensor], Tensor] = torch.ones_like

    def sample_weights(self, ages: Tensor) -> Tensor:
        return self.function(ages)


def weights_of(*methods: Intervention, seed: int = 3) -> AgeWeights:
    return AgeWeights({f"method_{index}": method for index, method in enumerate(methods)}, torch.Generator().manual_seed(seed))


def transitions(first: int, count: int, stack: int = 1) -> Transitions:
    """One transition of each of some environments, numbered by its action; no observation follows another."""
    numbers = torch.arange(first, first + count)
    frames = torch.stack([numbers.float() + 0.1 * frame for frame in range(stack + 1)], 1)
    ends = torch.zeros(count, dtype=torch.bool)
    return Transitions(frames[:, :-1], numbers, numbers.float(), ends, ends, frames[:, 1:])


def filled(capacity: int, steps: int, environments: int, weights: AgeWeights | None, n_step: int = 1, stack: int = 1) -> Replay:
    replay = Replay(capacity, CPU, n_step=n_step, frame_stack=stack, age_weights=weights)
    for step in range(steps):
        replay.add(transitions(step * environments, environments, stack))
    return replay


def counts(replay: Replay, seed: int = 0) -> list[int]:
    """How often each transition was drawn, by its number from the oldest held."""
    drawn = replay.sample(DRAWS, torch.Generator().manual_seed(seed)).actions
    oldest = replay.total - replay.size
    return torch.bincount(drawn - oldest, minlength=replay.size).tolist()


def test_four_transitions_by_hand() -> None:
    # Ages 3, 2, 1, 0 with T = 4 and w_min = 0.1: weights 0.25, 0.5, 0.75, 1, which add up to 2.5.
    replay = filled(10, 4, 1, weights_of(SampleWeightDecay(decay_env_steps=4, smallest_weight=0.1)))
    assert replay.age_weights is not None
    assert replay.age_weights.weights(torch.arange(4, dtype=torch.float64)).tolist() == [1.0, 0.75, 0.5, 0.25]
    assert chisquare(counts(replay), [DRAWS * p for p in (0.1, 0.2, 0.3, 0.4)]).pvalue > 0.001


@pytest.mark.parametrize("steps", [2, 3, 9, 11, 25])
@pytest.mark.parametrize("environments", [1, 3])
def test_what_is_drawn_follows_the_weights(environments: int, steps: int) -> None:
    """In a ring that is not full, just full, or overwritten, also in the middle of a step of all environments."""
    replay = filled(10, steps, environments, weights_of(SampleWeightDecay(decay_env_steps=12, smallest_weight=0.2)))
    held = range(replay.total - replay.size, replay.total)
    ages = [(steps - 1 - number // environments) * environments for number in held]  # counted step by step
    weights = [max(0.2, 1 - age / 12) for age in ages]
    assert chisquare(counts(replay), [DRAWS * weight / sum(weights) for weight in weights]).pvalue > 0.001


def test_returns_and_stacks_have_the_age_of_their_first_step() -> None:
    replay = filled(
        8, 6, 2, weights_of(ByAge(function=lambda ages: (ages == 0).double() + (ages == 6).double())), n_step=3, stack=2
    )
    batch = replay.sample(200, torch.Generator().manual_seed(1))
    assert set(batch.actions.tolist()) == {4, 5, 10, 11}  # of the last step, 10 and 11, and of three steps before
    assert torch.equal(batch.inputs[:, 0], batch.actions.float())


def test_weights_of_several_methods_are_multiplied() -> None:
    # 1, 1/2, 1/3 times 1, 1, 3 are in proportion 2 to 1 to 2.
    falling, rising = (
        ByAge(function=lambda ages: 1 / (1 + ages)),
        ByAge(function=lambda ages: torch.where(ages == 2, 3.0, 1.0).double()),
    )
    replay = filled(3, 7, 1, weights_of(falling, rising))
    assert chisquare(counts(replay), [DRAWS * 0.4, DRAWS * 0.2, DRAWS * 0.4]).pvalue > 0.001


def test_weights_of_zero_are_never_drawn() -> None:
    replay = filled(1000, 1000, 1, weights_of(ByAge(function=lambda ages: (ages < 5).double())))
    assert set(replay.sample(DRAWS, torch.Generator()).actions.tolist()) == {995, 996, 997, 998, 999}


def test_equal_weights_draw_what_is_drawn_without_and_leave_both_generators() -> None:
    plain, weighed = filled(10, 13, 1, None), filled(10, 13, 1, weights_of(SampleWeightDecay(smallest_weight=1.0)))
    one, two = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(plain.sample(6, one), weighed.sample(6, two), strict=True))
    assert torch.equal(one.get_state(), two.get_state())
    assert weighed.age_weights is not None
    assert torch.equal(weighed.age_weights._generator.get_state(), torch.Generator().manual_seed(3).get_state())


def test_the_generator_of_the_replay_continues_as_without_methods() -> None:
    plain, weighed = filled(10, 13, 1, None), filled(10, 13, 1, weights_of(SampleWeightDecay(decay_env_steps=5)))
    one, two = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    assert not torch.equal(plain.sample(6, one).actions, weighed.sample(6, two).actions)
    assert torch.equal(one.get_state(), two.get_state())
    assert torch.equal(plain.sample_uniformly(6, one).actions, weighed.sample_uniformly(6, two).actions)


def test_nearly_equal_weights_draw_nearly_the_same_rows() -> None:
    """The fraction is made of the row that was drawn uniformly, so that runs with and without can be compared in pairs."""
    plain, weighed = filled(50, 70, 1, None), filled(50, 70, 1, weights_of(ByAge(function=lambda ages: 1 + 1e-9 * ages)))
    rows = [replay.sample(500, torch.Generator().manual_seed(5)).actions for replay in (plain, weighed)]
    assert torch.equal(*rows)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_weights_that_make_no_sense_are_refused(bad: float) -> None:
    replay = filled(10, 4, 1, weights_of(ByAge(function=lambda ages: torch.where(ages == 2, bad, 1.0))))
    with pytest.raises(
        ValueError, match=r"^method_0: weights of samples must be finite, at least 0, and above 0 for the newest$"
    ):
        replay.sample(1, torch.Generator())
    with pytest.raises(ValueError, match="above 0 for the newest"):
        weights_of(ByAge(function=lambda ages: ages)).weights(torch.arange(3, dtype=torch.float64))


def test_an_empty_replay_has_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="the replay is empty"):
        Replay(4, CPU, age_weights=weights_of(SampleWeightDecay())).sample(1, torch.Generator())


def test_priorities_refuse_it() -> None:
    message = r"^method_0 draws transitions by age, and agent\.prioritised=true by priority; choose agent\.prioritised=false$"
    with pytest.raises(ValueError, match=message):
        PrioritisedReplay(Replay(4, CPU, age_weights=weights_of(SampleWeightDecay())), Priorities(4, CPU))
