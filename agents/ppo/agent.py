"""PPO: proximal policy optimisation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from plasticity.agents.losses.advantages import generalised_advantages
from plasticity.agents.losses.distributions import (
    categorical_entropy,
    categorical_log_prob,
    gaussian_entropy,
    gaussian_log_prob,
    sample_categorical,
)
from plasticity.agents.losses.value_scale import ValueScale
from plasticity.agents.parts import PartBuilder
from plasticity.agents.ppo.batches import RolloutBatch, RolloutStep
from plasticity.agents.ppo.settings import PPOSettings
from plasticity.agents.registry import agent
from plasticity.envs.experience import Experience, Transitions
from plasticity.envs.problem import Problem
from plasticity.interventions.base import Logs
from plasticity.networks.heads.output_heads import PairedHead
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.torso_network import TorsoNetwork
from plasticity.settings.seeding import restore_generator, torch_generator
from plasticity.updates.logs import by_part, samples
from plasticity.updates.recent_inputs import RecentInputs
from plasticity.updates.updater import Updater

_RECENT_OBSERVATIONS: Final = 2000


class PPO:
    """Learns a policy and a value from rollouts; parts ``actor`` and ``critic``, or ``actor_critic``.

    Actions of a continuous policy are drawn unbounded and stored as drawn; the environment clips them.

    Args:
        settings: The agent's settings.
        actions: Number of actions, or of action dimensions.
        discrete: Whether actions are chosen from a finite set.
        build_part: Builds the parts.
    """

    def __init__(self, settings: PPOSettings, actions: int, discrete: bool, build_part: PartBuilder) -> None:
        self.settings, self.discrete = settings, discrete
        self._coding = settings.coding
        policy = HeadSpec("policy" if discrete else "gaussian", actions, gain=0.01)
        value = self._coding.head("value", 1)
        if settings.shared_torso:
            both = build_part("actor_critic", HeadSpec(policy.kind, actions, gain=0.01, second=value))
            self.parts: dict[str, Updater] = {"actor_critic": both}
        else:
            self.parts = {"actor": build_part("actor", policy), "critic": build_part("critic", value)}
        self._first = next(iter(self.parts.values()))
        valued = self.parts["actor_critic" if settings.shared_torso else "critic"]
        self._scale = ValueScale(valued, settings.pop_art_decay)
        self._atoms = self._find_atoms()
        valued.value_errors = self._coding.errors_over(self._atoms)
        self._policy_objective, self._value_objective, self._joint_objective = self._policy, self._value, self._joint
        if settings.shared_torso:
            self.parts["actor_critic"].examples.declare(self._joint_objective, RolloutBatch)
        else:
            self.parts["actor"].examples.declare(self._policy_objective, RolloutBatch)
            self.parts["critic"].examples.declare(self._value_objective, RolloutBatch)
        self._rollout: list[RolloutStep] = []
        self._acted: tuple[Tensor, Tensor] | None = None  # the observations of the latest ``act``, and the outputs for them
        self._recent = RecentInputs(_RECENT_OBSERVATIONS)
        self.env_steps = 0
        self._acting = torch_generator(build_part.seed, "policy", device=self._first.device)
        self._shuffling = torch_generator(build_part.seed, "minibatches", device=self._first.device)

    def act(self, observations: Tensor) -> Tensor:
        """Draws (N,) int64 or (N, A) float32 actions from the policy."""
        outputs = self._first.predict(observations.to(self._first.device))
        self._acted = observations, outputs
        return self._drawn(outputs, self._acting)

    def sampled(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Draws actions as ``act`` does, with the caller's generator."""
        return self._drawn(self._first.predict(observations.to(self._first.device)), generator)

    def _drawn(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        outputs = self._policy_columns(outputs)
        if self.discrete:
            return sample_categorical(outputs, generator).cpu()
        mean, log_deviation = outputs.chunk(2, dim=1)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return (mean + log_deviation.exp() * noise).cpu()

    def greedy(self, observations: Tensor) -> Tensor:
        """Returns the most likely actions."""
        outputs = self._policy_columns(self._first.predict(observations.to(self._first.device)))
        return (outputs.argmax(1) if self.discrete else outputs.chunk(2, dim=1)[0]).cpu()

    def learn(self, experience: Experience) -> Logs:
        """Adds to the rollout, and learns from it when it is complete.

        Raises:
            TypeError: If the experience does not come from an environment.
        """
        if not isinstance(experience.batch, Transitions):
            raise TypeError("agent=ppo learns from an environment, not from a data stream; choose agent=supervised")
        self._rollout.append(RolloutStep(experience.batch, self._outputs_for(experience.batch.observations)))
        self._recent.add(experience.batch.observations)
        self.env_steps += experience.batch.rewards.shape[0]
        if len(self._rollout) < self.settings.rollout_steps:
            return {}
        batches, outputs = zip(*self._rollout, strict=True)
        columns = (torch.stack(column) for column in zip(*batches, strict=True))
        logs = self._learn_from(Transitions(*columns), torch.stack(outputs))
        self._rollout = []
        return logs

    def switch_task(self, task: int) -> Logs:
        """Informs the interventions of the new task; an unfinished rollout continues."""
        logs: Logs = {}
        for name, part in self.parts.items():
            own = part.task_switch(task)
            logs |= by_part(own, name) if len(self.parts) > 1 else own
        return logs

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        """Returns the latest observations, at most ``count``, or None before the first."""
        recent = self._recent.latest(count)
        return None if recent is None else recent.to(self._first.device)

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Returns everything that the next call depends on; it is small, and no files are needed."""
        return {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "rollout": [(*step.transitions, step.outputs) for step in self._rollout],
            "recent": self._recent.state_dict(),
            "env_steps": self.env_steps,
            "acting": self._acting.get_state(),
            "shuffling": self._shuffling.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], folder: Path | None = None) -> None:
        """Restores what ``state_dict`` returned."""
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self._rollout = [RolloutStep(Transitions(*batch), outputs) for *batch, outputs in state["rollout"]]
        self._recent.load_state_dict(state["recent"], torch.device("cpu"))
        self.env_steps = state["env_steps"]
        restore_generator(self._acting, state["acting"])
        restore_generator(self._shuffling, state["shuffling"])

    def _outputs_for(self, observations: Tensor) -> Tensor:
        """Returns what ``act`` computed for these observations, or computes it if it was for others."""
        acted, self._acted = self._acted, None
        if acted is not None and acted[0] is observations:
            return acted[1]
        return self._first.predict(observations.to(self._first.device))

    def _learn_from(self, rollout: Transitions, outputs: Tensor) -> Logs:
        """Makes the updates of one rollout, whose columns are (T, N, ...), from the network's outputs when it acted."""
        device = self._first.device
        data = self._joint_data(Transitions(*(column.to(device) for column in rollout)), outputs)
        logs: list[Logs] = []
        for _ in range(self.settings.epochs):
            order = torch.randperm(data.inputs.shape[0], generator=self._shuffling, device=device)
            for rows in order.split(self.settings.minibatch_size):
                logs.append(self._update(RolloutBatch(*(column.index_select(0, rows) for column in data))))
        return samples(logs)

    def _joint_data(self, rollout: Transitions, outputs: Tensor) -> RolloutBatch:
        """Computes log-probabilities, values, advantages and returns with the parameters that acted; rows are T x N."""
        outputs = outputs.flatten(0, 1)
        steps, count = rollout.rewards.shape
        inputs = rollout.observations.flatten(0, 1)
        actions = rollout.actions.flatten(0, 1)
        values = (self._value_columns(outputs) if self.settings.shared_torso else self._values(inputs)).view(steps, count)
        next_values = self._next_values(rollout, values)
        advantages = generalised_advantages(
            rollout.rewards,
            values,
            next_values,
            rollout.terminated,
            rollout.truncated,
            self.settings.discount,
            self.settings.trace_decay,
        )
        log_probs, _ = self._log_probs(self._policy_columns(outputs), actions)
        returns = advantages + values
        return RolloutBatch(inputs, actions, log_probs, advantages.flatten(), values.flatten(), returns.flatten())

    def _next_values(self, rollout: Transitions, values: Tensor) -> Tensor:
        """Returns (T, N) values of the next observations: computed only where the next step does not start with them."""
        following = torch.cat([values[1:], torch.zeros_like(values[:1])])
        apart = (rollout.next_observations[:-1] != rollout.observations[1:]).unsqueeze(2).flatten(2).any(2)
        rows = torch.cat([apart, torch.ones_like(rollout.truncated[:1])]).flatten().nonzero().squeeze(1)
        own = self._values(rollout.next_observations.flatten(0, 1).index_select(0, rows))
        return following.flatten().index_copy(0, rows, own).view_as(values)

    def _update(self, batch: RolloutBatch) -> Logs:
        returns = batch.returns
        batch = batch._replace(returns=self._scale.normalise(returns), values=self._scale.encode(batch.values))
        if self.settings.normalise_advantages and batch.advantages.shape[0] > 1:
            spread = batch.advantages.std() + 1e-8
            batch = batch._replace(advantages=(batch.advantages - batch.advantages.mean()) / spread)
        if self.settings.shared_torso:
            return self.parts["actor_critic"].update(self._joint_objective, batch) | self._scale.measures(returns)
        logs = by_part(self.parts["actor"].update(self._policy_objective, batch), "actor")
        logs |= by_part(self.parts["critic"].update(self._value_objective, batch), "critic") | self._scale.measures(returns)
        return {name: number for name, number in logs.items() if name != "train/loss"}

    def _policy(self, outputs: Tensor, batch: RolloutBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped surrogate (Schulman et al. 2017, equation 7) less the entropy bonus."""
        log_probs, entropy = self._log_probs(outputs, batch.actions)
        log_ratio = log_probs - batch.log_probs
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.settings.clip, 1 + self.settings.clip)
        loss = -torch.minimum(ratio * batch.advantages, clipped * batch.advantages).mean()
        measures = {
            "train/policy_loss": loss,
            "train/entropy": entropy.mean(),
            "train/approximate_kl": ((ratio - 1) - log_ratio).mean(),
            "train/clip_fraction": ((ratio - 1).abs() > self.settings.clip).float().mean(),
        }
        return loss - self.settings.entropy_coefficient * entropy.mean(), measures

    def _value(self, outputs: Tensor, batch: RolloutBatch) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = outputs.squeeze(1)
        errors = self._coding.errors(outputs, batch.returns, self._atoms)
        if self.settings.clip_value is not None and not self._coding.categorical:
            near = batch.values + (outputs - batch.values).clamp(-self.settings.clip_value, self.settings.clip_value)
            errors = torch.maximum(errors, self._coding.errors(near, batch.returns, self._atoms))
        loss = self.settings.value_coefficient * errors.mean()
        return loss, {"train/value_loss": loss}

    def _joint(self, outputs: Tensor, batch: RolloutBatch) -> tuple[Tensor, dict[str, Tensor]]:
        policy_outputs, value_outputs = self._head.split(outputs)
        policy_loss, measures = self._policy(policy_outputs, batch)
        value_loss, more = self._value(value_outputs, batch)
        return policy_loss + value_loss, {**measures, **more}

    def _log_probs(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities and entropies, (B,) each."""
        if self.discrete:
            return categorical_log_prob(outputs, actions), categorical_entropy(outputs)
        mean, log_deviation = outputs.chunk(2, dim=1)
        return gaussian_log_prob(mean, log_deviation, actions), gaussian_entropy(log_deviation)

    def _policy_columns(self, outputs: Tensor) -> Tensor:
        """Returns the policy's part of the first part's outputs."""
        return self._head.split(outputs)[0] if self.settings.shared_torso else outputs

    def _value_columns(self, outputs: Tensor) -> Tensor:
        """Returns the values that a shared network's outputs stand for, (B,)."""
        return self._head.second.decode(self._head.split(outputs)[1]).squeeze(1)

    def _values(self, observations: Tensor) -> Tensor:
        """Returns the values of observations, (B,)."""
        if self.settings.shared_torso:
            return self._value_columns(self._first.predict(observations))
        critic = self.parts["critic"]
        return critic.network.decode(critic.predict(observations)).squeeze(1)

    @property
    def _head(self) -> PairedHead:
        network = self._first.network
        assert isinstance(network, TorsoNetwork)
        assert isinstance(network.head, PairedHead)
        return network.head

    def _find_atoms(self) -> Tensor | None:
        if not self._coding.categorical:
            return None
        if self.settings.shared_torso:
            return self._first.network.tensor("head.second.atoms")
        return self.parts["critic"].network.tensor("head.atoms")


@agent("ppo", PPOSettings, learns_from="environment", actions="both")
def _build(settings: PPOSettings, problem: Problem, build_part: PartBuilder) -> PPO:
    return PPO(settings, problem.outputs, problem.discrete, build_part)
