"""Sample weight decay: learning from newer transitions more often."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import setting


def decayed_weights(ages: Tensor, decay_steps: float, smallest: float) -> Tensor:
    """Returns max(smallest, 1 - age / decay_steps), (M,)."""
    return (1 - ages / decay_steps).clamp(min=smallest)


def augmented_weights(ages: Tensor, decay_steps: float, smallest: float) -> Tensor:
    """Returns min(1, smallest + age / decay_steps), (M,)."""
    return (smallest + ages / decay_steps).clamp(max=1.0)


@intervention("sample_weight_decay")
@dataclass
class SampleWeightDecay(Intervention):
    """Draws newer transitions from the replay more often than older ones.

    Paper: Wu et al. 2026, "The Rank and Gradient Lost in Non-stationarity: Sample Weight Decay for Mitigating Plasticity Loss in
    Reinforcement Learning" (ICLR), for TD3, Double DQN and SAC.
    Equation: p_i = w_i / sum over j of w_j with w_i = max(w_min, 1 - age_i / T), age_i = t - t_i the environment steps since
    transition i was collected. ``weigh: older`` is the control, sample weight augmentation: w_i = min(1, w_min + age_i / T).
    Unit of T: environment steps of the run, those of all copies together (``env.num_envs``), as in ``steps=``. Transitions of the
    same step have the same age, the latest have 0; the age of a return over several steps is that of its first step.
    Values: those printed in the paper are not known to us. The defaults, and the formula of the control, come from public code
    under that author's name (SAC and TD3; a replay of 1,000,000).
    Deviations: that code counts a step of all copies as one, and the latest transition has age 1; its faster way to draw uses one
    weight for each of 2000 stretches of the replay, where draws are exact here. The batch's loss is not weighted.
    State: none, apart from its generator. Optimizer: untouched. Measurements draw uniformly.
    Parts: all parts learn from the same samples, so that naming one of them in ``parts`` has the same effect as naming all.
    Does not work with: agents without a replay, and ``agent.prioritised=true``, which draws by priority (both refused).
    """

    decay_env_steps: int = setting(
        80_000, "T, environment steps over which the weight falls from 1 to 0; it stops at w_min.", low=1
    )
    smallest_weight: float = setting(0.1, "w_min; 1 is uniform.", above=0, high=1)
    weigh: str = setting("newer", "Which transitions weigh more, ``newer`` or ``older``.", choices=("newer", "older"))

    no_effect: ClassVar = {"smallest_weight": 1.0}

    def sample_weights(self, ages: Tensor) -> Tensor:
        """Returns w of (M,) ages."""
        function = decayed_weights if self.weigh == "newer" else augmented_weights
        return function(ages, self.decay_env_steps, self.smallest_weight)
