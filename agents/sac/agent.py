"""SAC: soft actor-critic for continuous actions."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from plasticity.agents.losses.distributions import squashed_gaussian
from plasticity.agents.losses.targets import td_targets
from plasticity.agents.losses.value_coding import ValueSettings
from plasticity.agents.losses.value_scale import ValueScale
from plasticity.agents.parts import PartBuilder
from plasticity.agents.registry import agent
from plasticity.agents.replay.age_weights import age_weights
from plasticity.agents.replay.buffer import Replay, ReplayBatch
from plasticity.agents.sac.log_multiplier import LogMultiplier
from plasticity.envs.experience import LARGEST_BOUND, Experience, Transitions
from plasticity.envs.problem import Problem
from plasticity.interventions.base import Logs
from plasticity.networks.heads.pop_art import pop_art_heads
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.settings.fields import setting
from plasticity.settings.seeding import restore_generator, torch_generator
from plasticity.updates.compiled_function import Function
from plasticity.updates.logs import by_part, samples
from plasticity.updates.updater import Updater

_LOG_DEVIATIONS: Final = (-20.0, 2.0)
_LOG_PROB: Final = "log_prob"
_LARGEST_BOUND: Final = LARGEST_BOUND + 1  # the bounds of integer actions are half a unit wider


@dataclass
class SACSettings(ValueSettings):
    """Soft actor-critic (Haarnoja et al. 2018) with twin critics and automatic temperature.

    Discount and critics have the settings of ``ValueSettings``.
    """

    batch_size: int = setting(256, "Transitions per update.", low=1)
    n_step: int = setting(1, "Maximum number of steps that a return adds up before the target critics take over.", low=1)
    buffer_transitions: int = setting(1_000_000, "Size of the replay.", low=1)
    replay_folder: str | None = setting(
        None,
        "Where observations are mapped to a file instead of being kept in memory; None for in memory. The "
        "file has no name, and its space is free again when the program ends.",
    )
    warmup_env_steps: int = setting(10_000, "Environment steps of uniform actions before the first update.", low=0)
    env_steps_per_update: int = setting(1, "Environment steps for each update.", low=1)
    target_step_size: float = setting(
        0.005, "tau, share of the critics that their targets take over at every update.", low=0, high=1
    )
    target_entropy_per_dimension: float = setting(
        -1.0, "Target entropy of the policy, in nats per action dimension, in the space of (-1, 1)."
    )
    initial_temperature: float = setting(1.0, "Initial alpha.", low=1e-08)
    temperature_learning_rate: float = setting(3e-4, "Step size of log alpha; 0 for a constant temperature.", low=0)


class CriticBatch(NamedTuple):
    """What an update of the critics learns from: observations with actions (B, D + A), targets (B,) (normalised by PopArt)."""

    inputs: Tensor
    targets: Tensor


class ActorBatch(NamedTuple):
    """What an update of the policy learns from.

    Attributes:
        inputs: (B, D) observations.
        noise: (B, A), standard normal, from which actions are made.
        temperature: 0-dim.
    """

    inputs: Tensor
    noise: Tensor
    temperature: Tensor


class SAC:
    """Learns a squashed Gaussian policy; parts ``actor`` and ``critic``, the latter with both critics.

    The replay and the policy live in (-1, 1); actions are scaled to the environment's bounds when they leave the agent.

    Args:
        settings: The agent's settings.
        action_low: Lower bound of each action dimension.
        action_high: Upper bounds.
        build_part: Builds the parts.

    Raises:
        ValueError: If observations are not vectors, or an action has no bounds, or equal ones.
    """

    def __init__(
        self, settings: SACSettings, action_low: Sequence[float], action_high: Sequence[float], build_part: PartBuilder
    ) -> None:
        if len(build_part.input_shape) != 1:
            raise ValueError(f"agent=sac needs vector observations, not inputs of shape {tuple(build_part.input_shape)}")
        self.settings, self.dimensions = settings, len(action_low)
        self._middle, self._half = _scale(action_low, action_high)
        self._coding = settings.coding
        self.actor = build_part("actor", HeadSpec("squashed_gaussian", self.dimensions))
        joint = (build_part.input_shape[0] + self.dimensions,)
        self.critic = build_part("critic", self._coding.head("value", 1), joint, members=2)
        self.parts: dict[str, Updater] = {"actor": self.actor, "critic": self.critic}
        self.target = deepcopy(self.critic.network).eval().requires_grad_(False)
        self.critic.copies["target"] = self.target
        self._scale, self._target_heads = ValueScale(self.critic, settings.pop_art_decay), pop_art_heads(self.target)
        # The structure is final, and walking the modules at every update would take a large share of its time.
        self._critic_weights: list[Tensor] = list(self.critic.network.parameters())
        self._target_weights: list[Tensor] = list(self.target.parameters())
        self._critic_buffers = list(zip(self.critic.network.buffers(), self.target.buffers(), strict=True))
        self._atoms = self.critic.network.tensor("members.0.head.atoms") if self._coding.categorical else None
        self.critic.value_errors = self._coding.errors_over(self._atoms)
        device = self.actor.device
        self.temperature = LogMultiplier(settings.initial_temperature, settings.temperature_learning_rate, device)
        memory = Path(settings.replay_folder) if settings.replay_folder else None
        weights = age_weights(self.parts.values())
        size, steps, discount = settings.buffer_transitions, settings.n_step, settings.discount
        self.replay = Replay(size, device, steps, discount, folder=memory, age_weights=weights)
        self.env_steps = 0
        self._updates_owed = 0
        self._objective, self._actor_objective = self._critic_loss, self._actor_loss
        self._decided: dict[Network, Function] = {}  # by the network that acts
        self._bootstrapped = self.critic.compiled(
            lambda noise, temperature, *columns: [self._targets(ReplayBatch(*columns), noise, temperature)]
        )
        self.critic.examples.declare(self._objective, CriticBatch)
        self._acting = torch_generator(build_part.seed, "policy", device=device)
        self._sampling = torch_generator(build_part.seed, "replay", device=device)
        self._noise = torch_generator(build_part.seed, "policy noise", device=device)

    def act(self, observations: Tensor) -> Tensor:
        """Returns (N, A) actions: uniform during the warm-up, then drawn from the policy."""
        shape, device = (observations.shape[0], self.dimensions), self.actor.device
        if self.env_steps < self.settings.warmup_env_steps:
            return self._scaled(torch.empty(shape, device=device).uniform_(-1, 1, generator=self._acting))
        network = self.actor.evaluation_network()
        if network not in self._decided:
            self._decided[network] = self.actor.compiled(lambda *given: [self._actions(network, *given)])
        noise = torch.empty(shape, device=device).normal_(generator=self._acting)
        with torch.no_grad():
            (actions,) = self._decided[network](observations.to(device), noise)
        return self._scaled(actions)

    def sampled(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Draws actions from the policy, (N, A), with the caller's generator."""
        noise = torch.empty(observations.shape[0], self.dimensions, device=self.actor.device).normal_(generator=generator)
        with torch.no_grad():
            return self._scaled(self._actions(self.actor.evaluation_network(), observations.to(self.actor.device), noise))

    def _actions(self, network: Network, inputs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions in (-1, 1), (N, A), made with noise of that shape."""
        return squashed_gaussian(*self._policy(self.actor.infer(inputs, network)), noise)[0]

    def greedy(self, observations: Tensor) -> Tensor:
        """Returns the squashed means, (N, A)."""
        mean, _ = self._policy(self.actor.predict(observations.to(self.actor.device)))
        return self._scaled(torch.tanh(mean))

    def learn(self, experience: Experience) -> Logs:
        """Stores the transitions and makes the updates that are due.

        Raises:
            TypeError: If the experience does not come from an environment.
        """
        batch = experience.batch
        if not isinstance(batch, Transitions):
            raise TypeError("agent=sac learns from an environment, not from a data stream; choose agent=supervised")
        self.replay.add(batch._replace(actions=(batch.actions - self._middle) / self._half))
        count = batch.rewards.shape[0]
        self.env_steps += count
        warm = self.replay.total > self.settings.warmup_env_steps  # in a branch with an empty replay, since it started
        self._updates_owed = self._updates_owed + count if warm else 0
        logs: list[Logs] = []
        while self._updates_owed >= self.settings.env_steps_per_update:
            self._updates_owed -= self.settings.env_steps_per_update
            logs.append(self._update())
        return samples(logs)

    def switch_task(self, task: int) -> Logs:
        """Informs the interventions of the new task; the replay keeps its transitions."""
        return {k: v for name, part in self.parts.items() for k, v in by_part(part.task_switch(task), name).items()}

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        """Returns observations from the replay, joined with actions for the critics, or None while it is empty."""
        if not self.replay.size:
            return None
        batch = self.replay.sample_uniformly(count, generator)
        return batch.inputs if part == "actor" else torch.cat([batch.inputs, batch.actions], dim=1)

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Returns everything that the next call depends on; with a folder the replay is in files there."""
        return {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "replay": self.replay.state_dict(folder),
            "temperature": self.temperature.state_dict(),
            "env_steps": self.env_steps,
            "updates_owed": self._updates_owed,
            "generators": [generator.get_state() for generator in (self._acting, self._sampling, self._noise)],
        }

    def load_state_dict(self, state: Mapping[str, Any], folder: Path | None = None) -> None:
        """Restores what ``state_dict`` returned, with the folder that it was given."""
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.replay.load_state_dict(state["replay"], folder)
        self.temperature.load_state_dict(state["temperature"])
        self.env_steps, self._updates_owed = state["env_steps"], state["updates_owed"]
        generators = (self._acting, self._sampling, self._noise)
        for generator, saved in zip(generators, state["generators"], strict=True):
            restore_generator(generator, saved)

    def _update(self) -> Logs:
        batch = self.replay.sample(self.settings.batch_size, self._sampling)
        inputs = torch.cat([batch.inputs, batch.actions], dim=1)
        temperature = self.temperature.value
        (targets,) = self._bootstrapped(self._draw(batch.inputs), temperature, *batch)
        critic_logs = self.critic.update(self._objective, CriticBatch(inputs, self._scale.normalise(targets)))
        critic_logs = by_part(critic_logs | self._scale.measures(targets), "critic")
        actor_logs = self.actor.update(self._actor_objective, ActorBatch(batch.inputs, self._draw(batch.inputs), temperature))
        log_prob = torch.as_tensor(actor_logs.pop(_LOG_PROB))
        if self.settings.temperature_learning_rate:
            wanted = self.settings.target_entropy_per_dimension * self.dimensions
            self.temperature.descend(-(log_prob + wanted))
        self._follow()
        logs = {
            **by_part(actor_logs, "actor"),
            **critic_logs,
            "train/temperature": self.temperature.value,
            "train/entropy": -log_prob,
        }
        return {name: number for name, number in logs.items() if name != "train/loss"}

    @torch.no_grad()
    def _targets(self, batch: ReplayBatch, noise: Tensor, temperature: Tensor) -> Tensor:
        """Returns r + discount * (min of the target critics - alpha log p) of an action drawn at the next observation, (B,).

        Over several steps r has no entropies of the actions between: those actions come from the replay, not from the present
        policy.
        """
        mean, log_deviation = self._policy(self.actor.infer(batch.next_inputs, self.actor.network))
        actions, log_prob = squashed_gaussian(mean, log_deviation, noise)
        outputs = self.critic.infer(torch.cat([batch.next_inputs, actions], dim=1), self.target)
        values = self.target.decode(outputs).amin(1) - temperature * log_prob
        return td_targets(batch.rewards, batch.terminated, values, batch.discounts)

    def _critic_loss(self, outputs: Tensor, batch: CriticBatch) -> tuple[Tensor, dict[str, Tensor]]:
        targets = batch.targets.unsqueeze(1).expand(-1, outputs.shape[1])
        loss = self._coding.errors(outputs, targets, self._atoms).mean(0).sum()
        return loss, {"train/critic_loss": loss, "train/target_value": batch.targets.mean()}

    def _actor_loss(self, outputs: Tensor, batch: ActorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of alpha log p - the smaller critic, for actions made with the batch's noise."""
        mean, log_deviation = self._policy(outputs)
        actions, log_prob = squashed_gaussian(mean, log_deviation, batch.noise)
        for weight in self._critic_weights:  # the gradient passes through the critics, but does not train them
            weight.requires_grad_(False)
        values = self.critic.infer_with_graph(torch.cat([batch.inputs, actions], dim=1))
        for weight in self._critic_weights:
            weight.requires_grad_(True)
        decoded = self.critic.network.decode(values).amin(1)
        loss = (batch.temperature * log_prob - decoded).mean()
        return loss, {"train/actor_loss": loss, _LOG_PROB: log_prob.mean()}

    def _policy(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_deviation = outputs.chunk(2, dim=1)
        return mean, log_deviation.clamp(*_LOG_DEVIATIONS)

    def _draw(self, inputs: Tensor) -> Tensor:
        """Draws noise for the actions of as many observations."""
        return torch.empty(inputs.shape[0], self.dimensions, device=inputs.device).normal_(generator=self._noise)

    def _scaled(self, actions: Tensor) -> Tensor:
        return actions.cpu() * self._half + self._middle

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the target critics towards the critics; buffers are copied, after PopArt has rescaled for them."""
        self._scale.copy_moments_to(self._target_heads)
        torch._foreach_lerp_(self._target_weights, self._critic_weights, self.settings.target_step_size)
        for own, target in self._critic_buffers:
            target.copy_(own)


def _scale(action_low: Sequence[float], action_high: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Returns middle and half width of each action dimension, (A,); ValueError unless (-1, 1) can be scaled to the bounds."""
    low, high = (torch.tensor(bounds, dtype=torch.float64) for bounds in (action_low, action_high))
    if not bool(((low.abs() <= _LARGEST_BOUND) & (high.abs() <= _LARGEST_BOUND) & (low <= high)).all()):
        raise ValueError(
            f"agent=sac needs bounded actions, within ±{_LARGEST_BOUND:g}, not bounds {list(action_low)} to {list(action_high)}"
        )
    equal = (low.float() == high.float()).nonzero().flatten().tolist()
    if equal:
        raise ValueError(
            f"agent=sac has nothing to choose in action dimension {equal[0]}: its bounds {action_low[equal[0]]} and "
            f"{action_high[equal[0]]} are equal in single precision; take it out of the action space"
        )
    return ((low + high) / 2).float(), ((high - low) / 2).float()


@agent("sac", SACSettings, learns_from="environment", actions="continuous")
def _build(settings: SACSettings, problem: Problem, build_part: PartBuilder) -> SAC:
    return SAC(settings, problem.action_low, problem.action_high, build_part)
