"""An agent of one's own, in one file: Q-learning from the latest transitions alone, without a replay or a target network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.agents.registry import agent
from plasticity.envs.experience import Experience, Transitions
from plasticity.envs.problem import Problem
from plasticity.interventions.base import Logs
from plasticity.networks.spec import HeadSpec
from plasticity.settings.fields import Settings, setting
from plasticity.settings.seeding import restore_generator, torch_generator
from plasticity.updates.recent_inputs import RecentInputs


@dataclass
class OnlineQSettings(Settings):
    """Q-learning from the latest transitions alone (Watkins 1989, with a network): no replay, no target network."""

    discount: float = setting(0.99, "gamma.", low=0, below=1)
    epsilon: float = setting(0.05, "Probability of a uniform action.", low=0, high=1)
    recent_observations: int = setting(2000, "Latest observations kept for measurements.", low=1)


class ValueBatch(NamedTuple):
    """What an update learns from: observations (N, ...), actions (N,) int64, targets (N,)."""

    inputs: Tensor
    actions: Tensor
    targets: Tensor


@agent("online_q", OnlineQSettings, learns_from="environment", actions="discrete")
class OnlineQ:
    """Makes one update on every step of the environments; one part, ``q``."""

    def __init__(self, settings: OnlineQSettings, problem: Problem, build_part: PartBuilder) -> None:
        self.settings, self.actions = settings, problem.outputs
        self.q = build_part("q", HeadSpec("q", problem.outputs))
        self.parts = {"q": self.q}
        self._objective = self._loss  # one object, by which a compiled update knows it
        self.q.examples.declare(self._objective, ValueBatch)
        self._recent = RecentInputs(settings.recent_observations)
        self._exploration = torch_generator(build_part.seed, "exploration")

    def act(self, observations: Tensor) -> Tensor:
        """Returns (N,) actions, uniform with probability epsilon."""
        count = observations.shape[0]
        random = torch.randint(self.actions, (count,), generator=self._exploration)
        explore = torch.rand(count, generator=self._exploration) < self.settings.epsilon
        return torch.where(explore, random, self.greedy(observations))

    def greedy(self, observations: Tensor) -> Tensor:
        """Returns the (N,) actions of highest value."""
        return self.q.predict(observations.to(self.q.device)).argmax(1).cpu()

    def sampled(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the actions of highest value: the policy is not a stochastic one."""
        return self.greedy(observations)

    def learn(self, experience: Experience) -> Logs:
        """Makes one update towards r + gamma * max_a Q(s', a)."""
        assert isinstance(experience.batch, Transitions)  # learns_from="environment"
        batch = Transitions(*(column.to(self.q.device) for column in experience.batch))
        self._recent.add(batch.observations)
        best = self.q.infer(batch.next_observations, self.q.network).amax(1)
        targets = batch.rewards + self.settings.discount * best * ~batch.terminated
        return self.q.update(self._objective, ValueBatch(batch.observations, batch.actions, targets))

    def switch_task(self, task: int) -> Logs:
        """Passes the news to the interventions."""
        return self.q.task_switch(task)

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        """Returns the latest observations."""
        return self._recent.latest(count)

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Returns everything that the next call depends on."""
        generator = self._exploration.get_state()
        return {"q": self.q.state_dict(), "recent": self._recent.state_dict(), "exploration": generator}

    def load_state_dict(self, state: Mapping[str, Any], folder: Path | None = None) -> None:
        """Restores what ``state_dict`` returned."""
        self.q.load_state_dict(state["q"])
        self._recent.load_state_dict(state["recent"], self.q.device)
        restore_generator(self._exploration, state["exploration"])

    def _loss(self, outputs: Tensor, batch: ValueBatch) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = outputs.gather(1, batch.actions.unsqueeze(1)).squeeze(1)
        return (chosen - batch.targets).square().mean(), {"train/target_value": batch.targets.mean()}
