"""What a stream gives an agent: a batch of transitions or of labelled examples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from torch import Tensor

LARGEST_BOUND: Final = 1e9  # of an action; larger bounds mean that there are none, and no policy fills such a range


class Transitions(NamedTuple):
    """One step of N environments, as CPU tensors; treat them as read-only, consecutive steps may share memory.

    Attributes:
        observations: (N, *observation_shape) in the observation space's dtype; what the action was chosen from.
        actions: (N,) int64 for discrete actions, (N, A) float32 for continuous ones.
        rewards: (N,) float32.
        terminated: (N,) bool; the episode reached a terminal state, so its next observation has value zero.
        truncated: (N,) bool; the episode was cut by a limit, so its next observation is still bootstrapped from.
        next_observations: as ``observations``; at the end of an episode the true final observation, never the first
            one of the following episode.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    next_observations: Tensor


class Examples(NamedTuple):
    """One minibatch of labelled examples on the stream's device; treat it as read-only.

    Attributes:
        inputs: (B, *input_shape) in the data set's dtype (uint8 images stay uint8).
        targets: (B,) int64 class labels, (B, T) of sequences, a label for each token; or (B, K) float32 regression targets.
    """

    inputs: Tensor
    targets: Tensor


class Place(NamedTuple):
    """Where in its task a minibatch of a data stream stands, and what else belongs to that task.

    Attributes:
        epoch: Passes over the task's examples that are complete.
        epochs: Passes that the task has.
        ends_epoch: Whether the minibatch is the last of its epoch.
        ends_task: Whether it is the last of its task.
        active: (K,) bool, the classes that count; None if all do.
        validation: Examples that are not learned from, to choose by; None without them.
        minibatch: Minibatches of the task that came before it.
        minibatches: Minibatches that the task has.
    """

    epoch: int
    epochs: int
    ends_epoch: bool
    ends_task: bool
    active: Tensor | None = None
    validation: Examples | None = None
    minibatch: int = 0
    minibatches: int = 1


@dataclass(frozen=True)
class Experience:
    """The result of one ``Stream.advance``.

    Attributes:
        batch: what was collected.
        task: the task the batch belongs to, as far as the stream announces it (0 when it does not).
        stats: numbers to log about the stream itself, such as ``rollout/return``; a tensor holds one entry per sample.
        place: where in its task the batch stands, as far as the stream has tasks of examples; also present, and not to be used,
            when tasks are not announced to the learner.
    """

    batch: Transitions | Examples
    task: int
    stats: Mapping[str, Tensor | float] = field(default_factory=dict)
    place: Place | None = None
