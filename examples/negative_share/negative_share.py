"""A metric of one's own, in one file: how many pre-activations lie below 0."""

from torch import Tensor

from plasticity.metrics.metric import metric
from plasticity.metrics.view import LayerView


@metric("negative_share", unit="share of pre-activations below 0", range="0 to 1", direction="rises", cost="one pass")
def negative_share(layer: LayerView) -> Tensor:
    """Returns the share of each unit, (units,), over inputs and positions."""
    return (layer.pre < 0).float().movedim(1, 0).flatten(1).mean(1)
