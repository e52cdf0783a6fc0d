"""What PPO keeps of a rollout, and what its updates learn from."""

from typing import NamedTuple

from torch import Tensor

from plasticity.envs.experience import Transitions


class RolloutStep(NamedTuple):
    """A step of the environments beside what the first part's network said of its observations, (N, ...), when it acted."""

    transitions: Transitions
    outputs: Tensor


class PolicyBatch(NamedTuple):
    """What an update of the policy learns from, leading axis B."""

    inputs: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor


class ValueBatch(NamedTuple):
    """What an update of the value learns from, leading axis B; old values and returns are normalised for ``pop_art``."""

    inputs: Tensor
    values: Tensor
    returns: Tensor


class JointBatch(NamedTuple):
    """What an update of a shared network learns from, leading axis B."""

    inputs: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    values: Tensor
    returns: Tensor
