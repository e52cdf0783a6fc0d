"""The scale in which an agent learns values: their own, or that of PopArt."""

from collections.abc import Sequence

from torch import Tensor

from plasticity.interventions.base import Intervention, Logs
from plasticity.networks.heads.pop_art import PopArtHead, pop_art_heads
from plasticity.updates.updater import Updater


class ValueScale:
    """Normalises a part's targets if its values are coded by PopArt; otherwise it changes nothing.

    Args:
        part: The part with the values.
        step_size: Of the moments.

    Raises:
        ValueError: If a method averages the weights of a part whose values are coded by PopArt.
    """

    def __init__(self, part: Updater, step_size: float) -> None:
        self._heads, self._step_size = pop_art_heads(part.network), step_size
        for name, method in part.interventions.items():
            if self._heads and type(method).evaluation_network is not Intervention.evaluation_network:
                raise ValueError(f"{name} averages weights that stand for other values after every update of pop_art; drop one")

    def normalise(self, targets: Tensor) -> Tensor:
        """Returns targets in the form that the loss of this update expects.

        The moments move towards the targets first and the last map is rescaled, so that the network's values stay.
        Call it once before each update.

        Args:
            targets: Values, of any shape.
        """
        for head in self._heads:
            head.update_moments(targets, self._step_size)
        return self.encode(targets)

    def encode(self, values: Tensor) -> Tensor:
        """Returns values as the network outputs them."""
        return self._heads[0].encode(values) if self._heads else values

    def copy_moments_to(self, others: Sequence[PopArtHead]) -> None:
        """Gives the heads of a copy of the network its moments; their values stay, and weights of both can be averaged then."""
        for own, other in zip(self._heads, others, strict=True):
            other.copy_moments(own)

    def measures(self, targets: Tensor) -> Logs:
        """Returns logs about ``targets`` as they were before ``normalise``, and the moments; none without PopArt."""
        if not self._heads:
            return {}
        head = self._heads[0]
        return {
            "train/target_value": targets.mean(),
            "train/value_mean": head.mean.clone(),
            "train/value_deviation": head.deviation.clone(),
        }
