"""DQN: Q-learning with a replay and a target network."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from agents.losses import categorical_cross_entropy, project_categorical, td_targets
from agents.parts import PartBuilder
from agents.replay import Replay, ReplayBatch
from agents.schedules import linear
from agents.updater import Updater, samples
from agents.value_coding import ValueCoding
from envs.experience import Experience, Transitions
from interventions.base import Logs
from networks.spec import require_choice, require_range
from seeding import torch_generator

LOSSES: Final = ("squared", "huber", "two_hot", "hl_gauss", "categorical")
BEHAVIOURS: Final = ("epsilon_greedy", "uniform")


@dataclass
class DQNSettings:
    """Deep Q-network (Mnih et al. 2015), with double Q-learning and categorical values as options.

    With ``loss: categorical`` this is C51 (Bellemare et al. 2017), whose target is the projected distribution of the next value;
    ``two_hot`` and ``hl_gauss`` encode the usual scalar target.

    Attributes:
        discount: gamma, in [0, 1).
        batch_size: Transitions per update.
        buffer_transitions: Size of the replay.
        warmup_env_steps: Environment steps before the first update.
        env_steps_per_update: Environment steps for each update.
        target_every_updates: Updates between hard copies into the target network.
        double: Whether the online network chooses the next action (van Hasselt et al. 2016).
        loss: ``squared``, ``huber``, ``two_hot``, ``hl_gauss`` or ``categorical``.
        behaviour: ``epsilon_greedy`` or ``uniform``.
        epsilon_start: Exploration at the first step.
        epsilon_end: Exploration in the end.
        epsilon_env_steps: Environment steps over which it falls in a straight line.
        bins: Atoms of a categorical value.
        value_low: First atom; None for the least return that rewards in [0, 1] can have, which is 0.
        value_high: Last atom; None for the largest such return, 1 / (1 - discount).
        label_smoothing: Weight of the uniform distribution in the two-hot or HL-Gauss target, in [0, 1].
    """

    discount: float = 0.99
    batch_size: int = 32
    buffer_transitions: int = 100_000
    warmup_env_steps: int = 1000
    env_steps_per_update: int = 1
    target_every_updates: int = 500
    double: bool = False
    loss: str = "squared"
    behaviour: str = "epsilon_greedy"
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_env_steps: int = 10_000
    bins: int = 101
    value_low: float | None = None
    value_high: float | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_range("agent.discount", self.discount, 0, 1 - 1e-9)
        for name in ("batch_size", "buffer_transitions", "env_steps_per_update", "target_every_updates"):
            require_range(f"agent.{name}", getattr(self, name), 1)
        for name in ("epsilon_start", "epsilon_end", "label_smoothing"):
            require_range(f"agent.{name}", getattr(self, name), 0, 1)
        require_range("agent.warmup_env_steps", self.warmup_env_steps, 0)
        require_choice("agent.loss", self.loss, LOSSES)
        require_choice("agent.behaviour", self.behaviour, BEHAVIOURS)

    @property
    def coding(self) -> ValueCoding:
        """How values are represented; that of the two-hot support for C51 as well, which differs in its targets."""
        low = 0.0 if self.value_low is None else self.value_low
        high = 1 / (1 - self.discount) if self.value_high is None else self.value_high
        kind = "two_hot" if self.loss == "categorical" else self.loss
        return ValueCoding(kind, self.bins, low, high, self.label_smoothing)


class TargetBatch(NamedTuple):
    """What one update learns from: observations (B, ...), actions (B,) and targets, scalar (B,) or categorical (B, Z)."""

    inputs: Tensor
    actions: Tensor
    targets: Tensor


class DQN:
    """Learns action values of a discrete-action environment; one part, ``q``.

    Args:
        settings: The agent's settings.
        actions: Number of actions.
        build_part: Builds the part.
    """

    def __init__(self, settings: DQNSettings, actions: int, build_part: PartBuilder) -> None:
        self.settings, self.actions = settings, actions
        self.q = build_part("q", settings.coding.head("q", actions))
        self.parts: dict[str, Updater] = {"q": self.q}
        self._coding = settings.coding
        self._atoms: Tensor | None = self.q.network.tensor("head.atoms") if self._coding.categorical else None
        self.target = deepcopy(self.q.network).eval().requires_grad_(False)
        self.q.copies["target"] = self.target
        self.replay = Replay(settings.buffer_transitions, self.q.device)
        self._objective = self._loss
        self.env_steps = 0
        self._updates_owed = 0
        self._exploration = torch_generator(build_part.seed, "exploration")
        self._sampling = torch_generator(build_part.seed, "replay", device=self.q.device)

    @property
    def epsilon(self) -> float:
        """Probability of a uniform action at this step."""
        if self.settings.behaviour == "uniform":
            return 1.0
        return linear(self.env_steps, self.settings.epsilon_start, self.settings.epsilon_end, self.settings.epsilon_env_steps)

    def act(self, observations: Tensor) -> Tensor:
        """Returns (N,) actions, epsilon-greedy or uniform; the random numbers drawn do not depend on the values."""
        count = observations.shape[0]
        random = torch.randint(self.actions, (count,), generator=self._exploration)
        explore = torch.rand(count, generator=self._exploration) < self.epsilon
        if bool(explore.all()):
            return random
        return torch.where(explore, random, self.greedy(observations).cpu())

    def greedy(self, observations: Tensor) -> Tensor:
        """Returns the (N,) actions of highest value."""
        outputs = self.q.predict(observations.to(self.q.device))
        return self.q.network.decode(outputs).argmax(1)

    def learn(self, experience: Experience) -> Logs:
        """Stores the transitions and makes the updates that are due.

        Raises:
            TypeError: If the experience does not come from an environment.
        """
        if not isinstance(experience.batch, Transitions):
            raise TypeError("agent=dqn learns from an environment, not from a data stream; choose agent=supervised")
        self.replay.add(experience.batch)
        self._updates_owed += experience.batch.rewards.shape[0]
        self.env_steps += experience.batch.rewards.shape[0]
        if self.env_steps <= self.settings.warmup_env_steps:
            self._updates_owed = 0
        logs: list[Logs] = []
        while self._updates_owed >= self.settings.env_steps_per_update:
            self._updates_owed -= self.settings.env_steps_per_update
            logs.append(self._update())
        return samples(logs)

    def switch_task(self, task: int) -> Logs:
        """Passes the news to the interventions; the replay keeps its transitions."""
        return self.q.task_switch(task)

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        """Returns observations from the replay, or None while it is empty."""
        return self.replay.sample(count, generator).inputs if self.replay.size else None

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the next call depends on."""
        return {
            "q": self.q.state_dict(),
            "replay": self.replay.state_dict(),
            "env_steps": self.env_steps,
            "updates_owed": self._updates_owed,
            "exploration": self._exploration.get_state(),
            "sampling": self._sampling.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.q.load_state_dict(state["q"])
        self.replay.load_state_dict(state["replay"])
        self.env_steps, self._updates_owed = state["env_steps"], state["updates_owed"]
        self._exploration.set_state(state["exploration"])
        self._sampling.set_state(state["sampling"])

    def _update(self) -> Logs:
        sampled = self.replay.sample(self.settings.batch_size, self._sampling)
        batch = TargetBatch(sampled.inputs, sampled.actions, self._targets(sampled))
        logs = self.q.update(self._objective, batch)
        if self.q.steps % self.settings.target_every_updates == 0:
            self.target.load_state_dict(self.q.network.state_dict())
        return logs

    def _loss(self, outputs: Tensor, batch: TargetBatch) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = outputs[torch.arange(outputs.shape[0], device=outputs.device), batch.actions]
        values = batch.targets
        if values.ndim == 2:
            assert self._atoms is not None
            values = values @ self._atoms
        return self._errors(chosen, batch.targets).mean(), {"train/target_value": values.mean()}

    @torch.no_grad()
    def _targets(self, batch: ReplayBatch) -> Tensor:
        """Returns scalar targets (B,), or the projected next distribution (B, Z) of a categorical loss."""
        outputs = self.q.infer(batch.next_inputs, self.target)
        next_values = self.target.decode(outputs)
        selector = next_values
        if self.settings.double:
            selector = self.q.network.decode(self.q.infer(batch.next_inputs, self.q.network))
        best = selector.argmax(1, keepdim=True)
        if self.settings.loss != "categorical":
            chosen = next_values.gather(1, best).squeeze(1)
            return td_targets(batch.rewards, batch.terminated, chosen, self.settings.discount)
        atoms = self.q.network.tensor("head.atoms")
        distribution = outputs[torch.arange(outputs.shape[0], device=outputs.device), best.squeeze(1)].softmax(1)
        shifted = td_targets(batch.rewards.unsqueeze(1), batch.terminated.unsqueeze(1), atoms, self.settings.discount)
        return project_categorical(distribution, shifted, atoms)

    def _errors(self, chosen: Tensor, targets: Tensor) -> Tensor:
        if self.settings.loss == "categorical":
            return categorical_cross_entropy(chosen, targets)
        return self._coding.errors(chosen, targets, self._atoms)
