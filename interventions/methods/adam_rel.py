"""Adam with relative time: the step count starts again when the objective changes."""

from dataclasses import dataclass
from typing import ClassVar

from plasticity.interventions.base import Logs, Update
from plasticity.interventions.methods.adam_state_reset import require_adam, reset_adam_state
from plasticity.interventions.registry import intervention
from plasticity.interventions.scheduled import Scheduled
from plasticity.settings.fields import setting


@intervention("adam_rel")
@dataclass
class AdamRel(Scheduled):
    """Sets Adam's step count to 0 whenever the objective changes, and keeps both moments.

    Paper: Ellis et al. 2024, "Adam on Local Time: Addressing Nonstationarity in RL with Relative Adam Timesteps".
    Equation: t <- 0 at each new target network (DQN) or rollout (PPO). Right afterwards the bias correction makes steps
    (1 - b2^k)^(1/2) / (1 - b1^k) times as long as without it, k updates later: 0.316 at first for betas (0.9, 0.999).
    The period is a number of updates of the part, since an intervention has no access to the agent:

    * DQN, C51, Rainbow: ``every_updates`` = agent.target_every_updates (500 there by default, as here); t is 0 in the first
      update with the new target;
    * PPO: agent.epochs * ceil(agent.rollout_steps * env.num_envs / agent.minibatch_size);
    * supervised: 0, with ``at_task_switch``. SAC's target moves at every update, so that no period is the paper's.

    Deviations: none. State: none. Optimizer: Adam's count only; parameters are not touched.
    Does not work with: optimizers other than Adam (refused).
    """

    every_updates: int = setting(500, "Period in updates, 0 for never.", low=0, kw_only=True)

    no_effect: ClassVar = {"every_updates": 0, "at_task_switch": False}

    def attach(self, u: Update) -> None:
        """Checks that the optimizer is Adam."""
        require_adam(self.name, u.optimizer)

    def act(self, u: Update) -> Logs:
        """Sets the count to 0."""
        reset_adam_state(u.optimizer, "none", step=True)
        return {"applied": 1.0}
