"""Drawing rows of a replay in proportion to weights that depend on the age of their transitions."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention
from plasticity.updates.updater import Updater


class AgeWeights:
    """Turns rows that were drawn uniformly into rows drawn in proportion to weights by age.

    p_i = w(age_i) / sum over j of w(age_j), by inversion: a uniform fraction of the total is looked up in the running sums of the
    weights. The ages in a ring, newest first, are always the same, so that the sums are computed once; a draw is a
    binary search. The fraction is made of the row that was drawn uniformly and of a fine part from the methods' own generator:
    the replay's generator continues as without methods, and equal weights give the rows that would have been drawn without.

    Args:
        methods: The methods that weigh samples, by name.
        generator: That of the first of them, on the replay's device.
    """

    def __init__(self, methods: Mapping[str, Intervention], generator: torch.Generator) -> None:
        self.methods, self._generator = dict(methods), generator
        self._of = (0, 0)  # rows and environments that the sums are made for
        self._sums: Tensor | None = None  # (capacity,) float64, newest first; None where all weights are equal

    def draw(self, uniform: Tensor, total: int, capacity: int, environments: int) -> Tensor:
        """Returns (B,) rows, drawn with replacement.

        Args:
            uniform: (B,) rows, drawn uniformly from the filled ones, with replacement.
            total: Transitions ever added; number g is in row g % capacity.
            capacity: Rows.
            environments: Transitions added at a time. Transitions added together have the same age. Where the number has changed,
                earlier ones have the age that they would have with this number, which is less than one step off.
        """
        if self._of != (capacity, environments):
            self._of, self._sums = (capacity, environments), self._running_sums(capacity, environments)
        if self._sums is None:
            return uniform
        size = min(total, capacity)
        fine = torch.rand(uniform.shape, dtype=torch.float64, generator=self._generator, device=uniform.device)
        newer = (total - 1 - uniform) % capacity  # transitions that came after those in the rows
        whole = self._sums[size - 1]
        targets = torch.minimum((newer + fine) / size * whole, whole.nextafter(torch.zeros_like(whole)))
        return (total - 1 - torch.searchsorted(self._sums[:size], targets, right=True)) % capacity

    def weights(self, ages: Tensor) -> Tensor:
        """Returns the product of the methods' weights at (M,) float64 ages.

        Raises:
            ValueError: If one is negative or not finite, or is 0 at age 0, where there would be nothing to draw at the start.
        """
        product = torch.ones_like(ages)
        for name, method in self.methods.items():
            own = method.sample_weights(ages)
            if not bool((own.isfinite() & (own >= 0)).all()) or own[0] == 0:
                raise ValueError(f"{name}: weights of samples must be finite, at least 0, and above 0 for the newest")
            product = product * own
        return product

    def _running_sums(self, capacity: int, environments: int) -> Tensor | None:
        """Returns the sums of the weights of the newest row, the newest two, and so on, on the generator's device."""
        ages = torch.arange(capacity, dtype=torch.float64).div_(environments, rounding_mode="floor").mul_(environments)
        weights = self.weights(ages)  # on the CPU, where running sums never fall
        return None if bool((weights == weights[0]).all()) else weights.cumsum(0).to(self._generator.device)


def age_weights(parts: Iterable[Updater]) -> AgeWeights | None:
    """Returns the weights of all methods of an agent's parts, or None if no method weighs samples.

    The parts learn from the same samples: a method that several of them use counts once.
    """
    found: dict[str, tuple[Intervention, torch.Generator]] = {}
    for part in parts:
        found = found | {name: own for name, own in part.hooks.weighing().items() if name not in found}
    if not found:
        return None
    return AgeWeights({name: method for name, (method, _) in found.items()}, next(iter(found.values()))[1])
