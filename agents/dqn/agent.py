"""DQN: Q-learning with a replay and a target network; C51 and Rainbow are settings of it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plasticity.agents.dqn.settings import DQNSettings
from plasticity.agents.losses.targets import project_categorical, td_targets
from plasticity.agents.losses.value_coding import CATEGORICAL, POP_ART
from plasticity.agents.losses.value_scale import ValueScale
from plasticity.agents.parts import PartBuilder
from plasticity.agents.registry import agent
from plasticity.agents.replay.age_weights import age_weights
from plasticity.agents.replay.buffer import Replay, ReplayBatch
from plasticity.agents.replay.memory import TransitionMemory
from plasticity.agents.replay.priorities import Priorities, PrioritisedReplay
from plasticity.agents.schedules import linear
from plasticity.envs.experience import Experience, Transitions
from plasticity.envs.problem import Problem
from plasticity.interventions.base import Logs
from plasticity.networks.layers.noisy import fresh_noise
from plasticity.networks.network import Network
from plasticity.settings.seeding import restore_generator, torch_generator
from plasticity.updates.compiled_function import Function
from plasticity.updates.logs import samples
from plasticity.updates.updater import Updater

_LARGEST_PRIORITY: Final = 100.0
_PRIORITIES: Final = "priorities"
_TARGETS: Final = "targets"
_NO_NOISE: Final = nullcontext()


class TargetBatch(NamedTuple):
    """What one update learns from, leading axis B.

    Attributes:
        inputs: Observations.
        actions: (B,) int64.
        targets: Scalar (B,), normalised for ``pop_art``, or categorical (B, Z).
        weights: (B,) importance weights, 1 without priorities.
        next_inputs: Observations that the targets bootstrap from; not read by the loss, but by interventions.
    """

    inputs: Tensor
    actions: Tensor
    targets: Tensor
    weights: Tensor
    next_inputs: Tensor


class DQN:
    """Learns action values of a discrete-action environment; one part, ``q``.

    Args:
        settings: The agent's settings.
        actions: Number of actions.
        build_part: Builds the part.
        frame_stack: Frames along an observation's first axis, see ``plasticity.agents.replay.buffer``.
    """

    def __init__(self, settings: DQNSettings, actions: int, build_part: PartBuilder, frame_stack: int = 1) -> None:
        self.settings, self.actions = settings, actions
        self.q = build_part("q", settings.head(actions))
        self.parts: dict[str, Updater] = {"q": self.q}
        self._coding = settings.coding
        self._atoms: Tensor | None = self.q.network.tensor("head.atoms") if self._coding.categorical else None
        self.q.value_errors = self._coding.errors_over(self._atoms)
        self._scale = ValueScale(self.q, settings.pop_art_decay)
        self.target = deepcopy(self.q.network).eval().requires_grad_(False)
        self.q.copies["target"] = self.target
        self.replay = _replay(settings, self.q, frame_stack)
        self._objective, self._objective_of_sample = self._loss, self._loss_of_sample
        self._targets_inside = self._computes_targets_inside()
        self._best_actions: dict[Network, Function] = {}  # by the network that acts
        self._bootstrapped = self.q.compiled(lambda *columns: [self._targets(ReplayBatch(*columns))])
        self.q.examples.declare(self._objective, TargetBatch)
        self.env_steps = 0
        self._updates_owed = 0
        self._exploration = torch_generator(build_part.seed, "exploration")
        self._sampling = torch_generator(build_part.seed, "replay", device=self.q.device)
        self._noise = torch_generator(build_part.seed, "noise", device=self.q.device)

    @property
    def epsilon(self) -> float:
        """Probability of a uniform action at this step."""
        if self.settings.behaviour == "uniform":
            return 1.0
        return linear(self.env_steps, self.settings.epsilon_start, self.settings.epsilon_end, self.settings.epsilon_env_steps)

    @property
    def importance(self) -> float:
        """Exponent beta of the importance weights at this step."""
        settings = self.settings
        since = max(0, self.env_steps - settings.warmup_env_steps)
        return linear(since, settings.importance_start, settings.importance_end, settings.importance_env_steps)

    def act(self, observations: Tensor) -> Tensor:
        """Returns (N,) actions, uniform with probability epsilon; the random numbers drawn do not depend on the values."""
        count = observations.shape[0]
        random = torch.randint(self.actions, (count,), generator=self._exploration)
        explore = torch.rand(count, generator=self._exploration).numpy() < self.epsilon  # on the host: N is small
        exploring = np.count_nonzero(explore)
        network = self.q.evaluation_network()
        if network not in self._best_actions:
            self._best_actions[network] = self.q.compiled(lambda inputs: [self._best(network, inputs)])
        with self._with_noise(network):
            if exploring == count:
                return random
            (best,) = self._best_actions[network](observations.to(self.q.device))
        return torch.where(torch.from_numpy(explore), random, best.cpu()) if exploring else best.cpu()

    def greedy(self, observations: Tensor) -> Tensor:
        """Returns the (N,) actions of highest value."""
        return self._best(self.q.evaluation_network(), observations.to(self.q.device)).cpu()

    def _best(self, network: Network, inputs: Tensor) -> Tensor:
        """Returns the (N,) actions of highest value; ``infer`` makes no graph."""
        return self.q.network.decode(self.q.infer(inputs, network)).argmax(1)

    def sampled(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the actions of highest value: the policy is not stochastic."""
        return self.greedy(observations)

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
        if self.replay.total <= self.settings.warmup_env_steps:  # in a branch with an empty replay, since it started
            self._updates_owed = 0
        logs: list[Logs] = []
        while self._updates_owed >= self.settings.env_steps_per_update:
            self._updates_owed -= self.settings.env_steps_per_update
            logs.append(self._update())
        return samples(logs)

    def switch_task(self, task: int) -> Logs:
        """Informs the interventions of the new task; the replay keeps its transitions."""
        return self.q.task_switch(task)

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        """Returns observations drawn uniformly from the replay, or None while it is empty."""
        return self.replay.sample_uniformly(count, generator).inputs if self.replay.size else None

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Returns everything that the next call depends on; with a folder the replay is in files there."""
        return {
            "q": self.q.state_dict(),
            "replay": self.replay.state_dict(folder),
            "env_steps": self.env_steps,
            "updates_owed": self._updates_owed,
            "generators": [generator.get_state() for generator in self._generators],
        }

    def load_state_dict(self, state: Mapping[str, Any], folder: Path | None = None) -> None:
        """Restores what ``state_dict`` returned, with the folder that it was given."""
        self.q.load_state_dict(state["q"])
        self.replay.load_state_dict(state["replay"], folder)
        self.env_steps, self._updates_owed = state["env_steps"], state["updates_owed"]
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            restore_generator(generator, saved)

    @property
    def _generators(self) -> tuple[torch.Generator, ...]:
        return self._exploration, self._sampling, self._noise

    def _update(self) -> Logs:
        sampled = self.replay.sample(self.settings.batch_size, self._sampling, self.importance)
        if self._targets_inside:
            logs = self.q.update(self._objective_of_sample, sampled, remembers=False)
            self.q.examples.add(_with_targets(sampled, torch.as_tensor(logs.pop(_TARGETS))))
        else:
            (targets,) = self._bootstrapped(*sampled)
            batch = _with_targets(sampled, self._scale.normalise(targets))
            with self._with_noise(self.q.network):
                logs = self.q.update(self._objective, batch) | self._scale.measures(targets)
        if _PRIORITIES in logs:
            self.replay.set_priorities(sampled.rows, torch.as_tensor(logs.pop(_PRIORITIES)))
        if self.q.steps % self.settings.target_every_updates == 0:
            self.target.load_state_dict(self.q.network.state_dict())
        return logs

    def _computes_targets_inside(self) -> bool:
        """Whether targets and update are one compiled function, which saves the cost of a second call.

        The function may read the target network and must not read the weights that it changes, as double Q-learning does to
        choose. PopArt moves its moments between the two, and interventions may read the targets.
        """
        execution, settings = self.q.execution, self.settings
        plain = execution.compile and not execution.capture and execution.autocast is None
        return plain and not (settings.double or settings.loss == POP_ART or self.q.interventions)

    def _loss_of_sample(self, outputs: Tensor, sampled: ReplayBatch) -> tuple[Tensor, dict[str, Tensor]]:
        targets = self._targets(sampled)
        loss, measures = self._loss(outputs, _with_targets(sampled, targets))
        return loss, {**measures, _TARGETS: targets}

    def _loss(self, outputs: Tensor, batch: TargetBatch) -> tuple[Tensor, dict[str, Tensor]]:
        actions = batch.actions.unsqueeze(1)
        if self._coding.categorical:
            actions = actions.unsqueeze(2).expand(-1, 1, outputs.shape[2])
        chosen = outputs.gather(1, actions).squeeze(1)
        values = batch.targets
        if values.ndim == 2:
            assert self._atoms is not None
            values = values @ self._atoms
        errors = self._coding.errors(chosen, batch.targets, self._atoms)
        measures = {"train/target_value": values.mean()}
        if self.settings.prioritised:
            priorities = errors if self._coding.categorical else (chosen - batch.targets).abs()
            measures[_PRIORITIES] = priorities.clamp(0, _LARGEST_PRIORITY)
            errors = batch.weights * errors
        return errors.mean(), measures

    @torch.no_grad()
    def _targets(self, batch: ReplayBatch) -> Tensor:
        """Returns scalar targets (B,), or the projected next distribution (B, Z) of a categorical loss."""
        with self._with_noise(self.target):
            outputs = self.q.infer(batch.next_inputs, self.target)
        next_values = selector = self.target.decode(outputs)
        if not (self.settings.double or self.settings.loss == CATEGORICAL):
            return td_targets(batch.rewards, batch.terminated, next_values.amax(1), batch.discounts)
        if self.settings.double:
            with self._with_noise(self.q.network):
                selector = self.q.network.decode(self.q.infer(batch.next_inputs, self.q.network))
        best = selector.argmax(1, keepdim=True)
        if self.settings.loss != CATEGORICAL:
            return td_targets(batch.rewards, batch.terminated, next_values.gather(1, best).squeeze(1), batch.discounts)
        atoms = self.q.network.tensor("head.atoms")
        distribution = outputs[torch.arange(outputs.shape[0], device=outputs.device), best.squeeze(1)].softmax(1)
        rewards, terminated, discounts = (column.unsqueeze(1) for column in (batch.rewards, batch.terminated, batch.discounts))
        return project_categorical(distribution, td_targets(rewards, terminated, atoms, discounts), atoms)

    def _with_noise(self, network: Network) -> AbstractContextManager[None]:
        """Draws fresh noise for a network, if its layers are noisy."""
        return fresh_noise(network.noisy_layers, self._noise) if network.noisy_layers else _NO_NOISE


def _with_targets(sampled: ReplayBatch, targets: Tensor) -> TargetBatch:
    return TargetBatch(sampled.inputs, sampled.actions, targets, sampled.weights, sampled.next_inputs)


def _replay(settings: DQNSettings, part: Updater, frame_stack: int) -> TransitionMemory:
    folder, device = None if settings.replay_folder is None else Path(settings.replay_folder), part.device
    weights = age_weights([part])
    replay = Replay(settings.buffer_transitions, device, settings.n_step, settings.discount, frame_stack, folder, weights)
    if not settings.prioritised:
        return replay
    alpha, uniform = settings.priority_exponent, settings.priority_uniform_fraction
    return PrioritisedReplay(replay, Priorities(settings.buffer_transitions, device, alpha, uniform, stratified=False))


@agent("dqn", DQNSettings, learns_from="environment", actions="discrete")
def _build(settings: DQNSettings, problem: Problem, build_part: PartBuilder) -> DQN:
    return DQN(settings, problem.outputs, build_part, problem.frame_stack)
