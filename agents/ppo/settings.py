"""Settings of PPO."""

from dataclasses import dataclass

from plasticity.agents.losses.value_coding import ValueSettings
from plasticity.settings.fields import setting


@dataclass
class PPOSettings(ValueSettings):
    """Proximal policy optimisation (Schulman et al. 2017), for discrete and continuous actions.

    Discount and value have the settings of ``ValueSettings``.
    """

    rollout_steps: int = setting(2048, "Steps of every environment between two phases of learning.", low=1)
    minibatch_size: int = setting(64, "Transitions per update.", low=1)
    epochs: int = setting(10, "Passes over a rollout.", low=1)
    trace_decay: float = setting(0.95, "lambda of generalised advantage estimation.", low=0, high=1)
    clip: float = setting(0.2, "Bound of the probability ratio's distance from 1.", low=0)
    clip_value: float | None = setting(
        0.2, "Bound of a scalar value's distance from the old one, in deviations for ``pop_art``; None for none."
    )
    entropy_coefficient: float = setting(0.0, "Weight of the entropy bonus.")
    value_coefficient: float = setting(0.5, "Weight of the value's error.")
    normalise_advantages: bool = setting(True, "Whether every minibatch's advantages get mean 0 and deviation 1.")
    shared_torso: bool = setting(
        False,
        "Whether policy and value are two heads of one part, ``actor_critic``, or parts of their own, "
        "``actor`` and ``critic``, each with its own optimizer and gradient bound.",
    )
