"""What PPO keeps of a rollout, and what its updates learn from."""

from typing import NamedTuple

from torch import Tensor

from plasticity.envs.experience import Transitions


class RolloutStep(NamedTuple):
    """A step of the environments, and the outputs of the first part's network for its observations, (N, ...), when it acted."""

    transitions: Transitions
    outputs: Tensor


class RolloutBatch(NamedTuple):
    """What an update of any part learns from, leading axis B.

    Attributes:
        inputs: Observations.
        actions: (B,) int64 or (B, A) float32.
        log_probs: (B,) of the actions when they were chosen.
        advantages: (B,).
        values: (B,) of the observations when the actions were chosen, normalised for ``pop_art``.
        returns: (B,), likewise.
    """

    inputs: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    values: Tensor
    returns: Tensor
