"""Settings of PPO."""

from dataclasses import dataclass

from plasticity.agents.losses.value_coding import ValueSettings
from plasticity.networks.spec import require_range


@dataclass
class PPOSettings(ValueSettings):
    """Proximal policy optimisation (Schulman et al. 2017), for discrete and continuous actions.

    Discount and value have the settings of ``ValueSettings``.

    Attributes:
        rollout_steps: Steps of every environment between two phases of learning.
        minibatch_size: Transitions per update.
        epochs: Passes over a rollout.
        trace_decay: lambda of generalised advantage estimation, in [0, 1].
        clip: Bound of the probability ratio's distance from 1.
        clip_value: Bound of a scalar value's distance from the old one, in deviations for ``pop_art``; None for none.
        entropy_coefficient: Weight of the entropy bonus.
        value_coefficient: Weight of the value's error.
        normalise_advantages: Whether every minibatch's advantages get mean 0 and deviation 1.
        shared_torso: Whether policy and value are two heads of one part, ``actor_critic``, or parts of their own, ``actor`` and
            ``critic``, each with its own optimizer and gradient bound.
        anneal_env_steps: Environment steps over which the learning rate falls to 0 in a straight line; 0 for never.
    """

    rollout_steps: int = 2048
    minibatch_size: int = 64
    epochs: int = 10
    trace_decay: float = 0.95
    clip: float = 0.2
    clip_value: float | None = 0.2
    entropy_coefficient: float = 0.0
    value_coefficient: float = 0.5
    normalise_advantages: bool = True
    shared_torso: bool = False
    anneal_env_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rollout_steps", "minibatch_size", "epochs"):
            require_range(f"agent.{name}", getattr(self, name), 1)
        require_range("agent.trace_decay", self.trace_decay, 0, 1)
        require_range("agent.clip", self.clip, 0)
        require_range("agent.anneal_env_steps", self.anneal_env_steps, 0)
