"""Evaluation: whole episodes in separate environments, without any effect on the run."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from plasticity.agents.agent import Agent, Policy
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.experience import Transitions
from plasticity.envs.simulation.actions import action_range
from plasticity.envs.simulation.evaluation import (
    environment_line,
    episode_bound,
    evaluation_settings,
    evaluation_stream,
    follow_conditions,
)
from plasticity.envs.stream import Stream
from plasticity.metrics.log_values import Measurements
from plasticity.metrics.observer import passes
from plasticity.metrics.view import View
from plasticity.settings.fields import Settings, setting
from plasticity.settings.seeding import derive_seed, torch_generator

POLICIES: Final = ("greedy", "sampled")

Act = Callable[[Tensor], Tensor]


@dataclass
class EvaluationSettings(Settings):
    """When an agent is evaluated, and how."""

    section: ClassVar[str] = "evaluation"

    every_steps: int = setting(0, "Period in steps of the stream, 0 for never.", low=0)
    episodes: int = setting(10, "Episodes of one evaluation.", low=1)
    num_envs: int = setting(
        1,
        "Copies of the environment that are stepped together. Each contributes its first ``episodes / "
        "num_envs`` episodes, so that short ones are not preferred.",
        low=1,
    )
    episode_steps: int | None = setting(
        None, "Steps after which an episode is cut; None for the environment's own limit, or 100,000 where it has none.", low=1
    )
    policy: str = setting(
        "greedy",
        "``greedy``, the action of highest value or probability, or ``sampled``, drawn from a stochastic policy.",
        choices=POLICIES,
    )
    random_action_probability: float = setting(
        0.0, "Chance of a uniform action in its place: 0.05 in Mnih et al. (2015), 0.001 in Dopamine.", low=0, high=1
    )
    step: int | None = setting(None, "Which checkpoint ``mode=evaluate`` takes, by its step; None for the newest.", low=0)

    @property
    def copies(self) -> int:
        """Copies of the environment that have an episode to play."""
        return min(self.num_envs, self.episodes)


class Episodes(NamedTuple):
    """What was played.

    Attributes:
        returns: Undiscounted sums of the rewards as the environment gave them, not clipped or scaled; (E,) float64.
        lengths: Steps, (E,) float64.
        conditions: What the environment reported at the start of the episodes, such as ``stream/task``.
    """

    returns: Tensor
    lengths: Tensor
    conditions: dict[str, float]

    def summary(self) -> dict[str, float]:
        """Returns mean, standard deviation (with divisor E), extremes and mean length by name."""
        return {
            "return": self.returns.mean().item(),
            "return_std": self.returns.std(correction=0).item(),
            "return_min": self.returns.min().item(),
            "return_max": self.returns.max().item(),
            "length": self.lengths.mean().item(),
            "episodes": float(len(self.returns)),
        }


def play(stream: EnvironmentStream, act: Act, episodes: int) -> Episodes:
    """Plays until every copy of the environment has finished its share of the episodes.

    The shares differ by at most one, and what a copy plays beyond its own does not count. If the first episodes to finish were
    taken from any copy, short episodes would be taken more often than they happen.

    Args:
        stream: Restarted just before; every copy is at the start of an episode.
        act: The policy.
        episodes: At least 1.

    Returns:
        The episodes, those of the first copy first.
    """
    copies = stream.num_envs
    owed = [episodes // copies + (copy < episodes % copies) for copy in range(copies)]
    played: list[list[tuple[float, float]]] = [[] for _ in range(copies)]
    conditions: dict[str, float] | None = None
    while any(len(done) < share for done, share in zip(played, owed, strict=True)):
        experience = stream.advance(act)
        stats, batch = experience.stats, experience.batch
        assert isinstance(batch, Transitions)
        if conditions is None:
            conditions = {name: float(value) for name, value in stats.items() if name.startswith("stream/")}
        if "rollout/return" not in stats:
            continue
        ended = (batch.terminated | batch.truncated).nonzero().squeeze(1).tolist()
        returns, lengths = (torch.as_tensor(stats[f"rollout/{name}"]).tolist() for name in ("return", "length"))
        for copy, *episode in zip(ended, returns, lengths, strict=True):
            if len(played[copy]) < owed[copy]:
                played[copy].append((episode[0], episode[1]))
    table = torch.tensor([episode for copy in played for episode in copy], dtype=torch.float64)
    return Episodes(table[:, 0], table[:, 1], conditions or {})


class EvaluationObserver:
    """Plays whole episodes under the conditions that training has at that moment; an observer.

    The environments are built at the first evaluation and are its own. The statistics of normalisation, the task and the physics
    are those of training, and stay as they are. All random numbers depend on (seed, step) alone: a resumed run evaluates as if it
    had not stopped.

    Args:
        settings: When, and how.
        env: The settings of the environment that is trained in.
        seed: The run's seed.
        agent: The agent that plays.
        training: The stream that is trained on; only read.

    Raises:
        ValueError: There are no episodes to play, in a data stream.
    """

    at_task_switch = False

    def __init__(self, settings: EvaluationSettings, env: object, seed: int, agent: Agent, training: Stream) -> None:
        if not isinstance(training, EnvironmentStream) or not isinstance(agent, Policy):
            raise ValueError(
                "evaluation plays episodes, and this env is a data stream, which has none: leave evaluation.every_steps at 0, "
                "and see online/accuracy"
            )
        self.settings, self.env, self.seed = settings, env, seed
        self._agent, self._policy, self._training = agent, agent, training
        self._stream: EnvironmentStream | None = None

    def due(self, before: int, after: int) -> bool:
        """Tells whether the period ends in this step."""
        return passes(before, after, self.settings.every_steps)

    def measure(self, view: View) -> Measurements:
        """Returns ``eval/return`` and the other values; see ``Episodes.summary``."""
        return {f"eval/{name}": value for name, value in self.evaluate(view.step).summary().items()}

    def evaluate(self, step: int) -> Episodes:
        """Plays the episodes of an evaluation at this step of the run."""
        if self._stream is None:
            self._stream = evaluation_stream(self.env, self.seed, self.settings.copies, self.settings.episode_steps)
        return self.play_in(self._stream, step, self.settings.episodes)

    def play_in(
        self, stream: EnvironmentStream, step: int, episodes: int, watch: Callable[[Tensor], None] | None = None
    ) -> Episodes:
        """Plays in environments made by ``evaluation_stream``.

        Args:
            stream: The environments.
            step: The run's step; it decides all random numbers.
            episodes: How many.
            watch: Called with the observations before each step.
        """
        seed = derive_seed(self.seed, "evaluation", step)
        follow_conditions(stream, self._training)
        stream.restart(seed)
        act = self._acting(stream.action_space, seed, watch)
        with ExitStack() as stack:
            for part in self._agent.parts.values():
                stack.enter_context(part.network.evaluating())
            return play(stream, act, episodes)

    def _acting(self, space: spaces.Space[Any], seed: int, watch: Callable[[Tensor], None] | None) -> Act:
        device = next(iter(self._agent.parts.values())).device
        drawing = torch_generator(seed, "policy", device=device)
        straying = torch_generator(seed, "random actions")
        choose = self._policy.greedy
        if self.settings.policy == "sampled":
            choose = partial(self._policy.sampled, generator=drawing)
        probability = self.settings.random_action_probability

        def act(observations: Tensor) -> Tensor:
            if watch is not None:
                watch(observations)
            actions = choose(observations).cpu()
            if not probability:
                return actions
            strays = torch.rand(len(actions), generator=straying) < probability
            strays = strays.view(-1, *[1] * (actions.ndim - 1))
            return torch.where(strays, uniform_actions(space, actions, straying), actions)

        return act


def uniform_actions(space: spaces.Space[Any], like: Tensor, generator: torch.Generator) -> Tensor:
    """Returns uniform actions of a discrete or bounded space, in shape and dtype of ``like``."""
    if isinstance(space, spaces.Discrete):
        return torch.randint(int(space.n), like.shape, generator=generator)
    assert isinstance(space, spaces.Box)
    low, high = (torch.from_numpy(bound).to(like.dtype) for bound in action_range(space))
    return low + (high - low) * torch.rand(like.shape, generator=generator)


def protocol(settings: EvaluationSettings, env: object, training: Stream) -> str:
    """Returns in one line all that determines what a return in evaluation means; ``training`` is a stream of these settings."""
    assert isinstance(training, EnvironmentStream)
    bound = episode_bound(env, settings.episode_steps, training)
    how = f"policy={settings.policy} random_action_probability={settings.random_action_probability}"
    played = f"episodes={settings.episodes} num_envs={settings.copies} episode_steps={bound}"
    where = environment_line(evaluation_settings(env, settings.copies, settings.episode_steps))
    return f"{how} {played}, returns of whole games, not discounted, clipped or scaled; {where}"
