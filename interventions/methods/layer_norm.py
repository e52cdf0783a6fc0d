"""Layer normalisation before every activation."""

from dataclasses import dataclass, replace

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import intervention
from plasticity.networks.layers.normalisation import require_no_batch_norm_in_resnet
from plasticity.networks.spec import NetworkSpec
from plasticity.settings.fields import setting


@intervention("layer_norm")
@dataclass
class LayerNorm(Intervention):
    """Normalises the pre-activations of every hidden layer over the layer's units (Ba et al. 2016).

    Paper: Ba, Kiros & Hinton 2016, equation 4; as a remedy, "Towards perpetually trainable neural networks", sections 4.1, 4.2.
    Equation: z' = gain * (z - mean(z)) / sqrt(var(z) + 1e-5) + offset, over units of one example; before the activation of every
    hidden layer, never on the output. In a convolution the statistics run over channels and positions, gain and offset over
    channels. A ResNet has it behind every convolution, the shortcuts' included, in place of batch normalisation.
    Deviations: none. State: gain and offset are ordinary parameters. Optimizer: untouched.
    Does not work with: unit resets stay possible, but resetting one unit changes the statistics of its whole layer, so the
    network's function is not preserved.
    """

    affine: bool = setting(True, "Whether there are a gain and an offset.")

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Puts the normalisation in front of any other, the order of the paper.

        Raises:
            ValueError: If the network has a layer normalisation already, or is a ResNet with batch normalisation.
        """
        require_no_batch_norm_in_resnet(self.name, spec)
        if any(name.startswith("layer") for name in spec.normalisation):
            raise ValueError(f"intervention layer_norm would be a second one: network.normalisation={list(spec.normalisation)}")
        return replace(spec, normalisation=["layer" if self.affine else "layer_non_affine", *spec.normalisation])
