"""The labels by which the contextual bandit rewards answers: those of the data set, or permuted ones, at once or gradually."""

from typing import Any

import numpy as np
import numpy.typing as npt

from plasticity.envs.drift import share_of_new
from plasticity.envs.simulation.generator_state import generator_state, restored_generator
from plasticity.settings.seeding import numpy_generator

Labels = npt.NDArray[np.int64]


def label_order(classes: int, number: int, seed: int) -> Labels:
    """Returns the label that each class has, drawn from (seed, number) alone; never the classes as they are, except for number 0.

    Args:
        classes: C, how many there are.
        number: 0 for the classes as they are, n > 0 for the n-th permutation.
        seed: The run's.

    Returns:
        (C,), a permutation of 0..C-1.

    Raises:
        ValueError: A negative number, or a permutation of a single class.
    """
    if number < 0:
        raise ValueError(f"label_permutation must be 0 or more, got {number!r}")
    order = np.arange(classes)
    if not number:
        return order
    if classes < 2:
        raise ValueError(f"label_permutation={number} needs two classes or more; the data set has {classes}")
    generator = numpy_generator(seed, "label_permutation", number)
    while np.array_equal(order, np.arange(classes)):
        order = generator.permutation(classes)
    return order


class BanditLabels:
    """Labels under a permutation; the labels before it may drift towards these.

    Before are the labels as they are, or, in a branch, those of its parent. In the t-th step of a drift, from 0, over all
    copies, an answer counts by the new labels with probability t / ``drift_steps`` and otherwise by those before. The draws are
    private, so that the images do not depend on them.

    Args:
        targets: (M,), the label of each image in the data set.
        classes: How many labels there are.
        number: Of the permutation, see ``label_order``.
        seed: Of the permutations.
        drift_steps: Steps of the drift; 0 for the new labels from the first step on.

    Raises:
        ValueError: A number is negative, or there is nothing to permute.
    """

    def __init__(self, targets: Labels, classes: int, number: int, seed: int, drift_steps: int) -> None:
        if drift_steps < 0:
            raise ValueError(f"drift_steps must be 0 or more, got {drift_steps!r}")
        self._targets, self._classes, self._seed = targets, classes, seed
        self._number, self._drift_steps = number, drift_steps
        self._now = label_order(classes, number, seed)[targets]
        self._held: float | None = None
        self._begin(0)
        self.reseed(seed)

    @property
    def share(self) -> float:
        """The chance of the new labels, in [0, 1]."""
        if self._held is not None:
            return self._held
        return 1.0 if self._before_number == self._number else share_of_new(self._steps, self._drift_steps)

    def of(self, indices: Labels) -> Labels:
        """Returns the labels (N,) of images by which N answers of one step count, and advances by N steps."""
        share = self.share
        if share >= 1.0:
            return self._now[indices]
        is_new = self._generator.random(len(indices)) < share
        self._steps += len(indices)
        return np.where(is_new, self._now[indices], self._before[indices])

    def reseed(self, seed: int) -> None:
        """Begins the private draws again, from a seed of the environment."""
        self._generator = numpy_generator(seed, "label drift")

    def follow(self, other: "BanditLabels") -> None:
        """Takes the chance that ``other`` has now and keeps it, as evaluation needs."""
        self._begin(other._before_number)
        self._held = other.share

    def state_dict(self) -> dict[str, Any]:
        """Returns which labels these are, and how far they have drifted."""
        state: dict[str, Any] = {"number": self._number}
        if self._drift_steps:
            state |= {"before": self._before_number, "steps": self._steps, "generator": generator_state(self._generator)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state of these labels; from one of other labels, starts to change to these.

        An unfinished drift to those other labels counts as complete: the new drift starts from its final labels.
        """
        if state["number"] != self._number or "before" not in state:
            self._begin(state["number"])
            return
        self._begin(state["before"])
        self._steps, self._generator = state["steps"], restored_generator(state["generator"])

    def _begin(self, number: int) -> None:
        self._before_number, self._steps = number, 0
        self._before = label_order(self._classes, number, self._seed)[self._targets]
