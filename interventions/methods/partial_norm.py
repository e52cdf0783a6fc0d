"""Normalisation by single moments, each along its own axis."""

from dataclasses import dataclass, replace
from typing import Final

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import intervention
from plasticity.networks.layers.normalisation import require_no_batch_norm_in_resnet
from plasticity.networks.spec import NetworkSpec
from plasticity.settings.fields import setting

MOMENTS: Final = ("layer_mean", "layer_std", "batch_mean", "batch_std")


@intervention("partial_norm")
@dataclass
class PartialNorm(Intervention):
    """Subtracts means or divides by deviations, each by itself, along the batch or along the layer.

    Paper: "Towards perpetually trainable neural networks", appendix D.8, which separates the steps of normalisation and finds
    that the mean over the batch with the deviation over the layer does best on average: the default here.
    Equation: in order, ``batch_mean`` z - mean(z) and ``batch_std`` z / sqrt(var(z) + 1e-5) over batch and positions of a unit;
    ``layer_mean`` and ``layer_std`` over the units and positions of an example. A deviation is computed around the mean of its
    input, but the input is not centred. No gain, no offset.
    Deviations: the paper gives no formula for the deviation over the layer; here it is that of the values centred by the step
    before. State: running averages of the batch's moments are buffers. Optimizer: untouched.
    Does not work with: with ``batch_mean``, batches of one example, all of whose values become 0.
    """

    moments: list[str] = setting(
        ["batch_mean", "layer_std"],
        "``layer_mean``, ``layer_std``, ``batch_mean``, ``batch_std``, in the order in which they are applied.",
        choices=MOMENTS,
    )

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Puts them behind any other normalisation.

        Raises:
            ValueError: If the network is a ResNet with batch normalisation.
        """
        require_no_batch_norm_in_resnet(self.name, spec)
        return replace(spec, normalisation=[*spec.normalisation, *self.moments])
