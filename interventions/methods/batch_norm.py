"""Batch normalisation before every activation."""

from dataclasses import dataclass, replace

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import intervention
from plasticity.networks.spec import NetworkSpec
from plasticity.settings.fields import setting


@intervention("batch_norm")
@dataclass
class BatchNorm(Intervention):
    """Normalises the pre-activations of every hidden unit over the batch (Ioffe & Szegedy 2015).

    Paper: Ioffe & Szegedy 2015, algorithm 1; with plasticity, "Towards perpetually trainable neural networks", appendix D.8.
    Equation: z' = gain * (z - mean(z)) / sqrt(var(z) + 1e-5) + offset, over the batch, and the positions of a convolution; before
    the activation of every hidden layer, never on the output. Running averages with momentum 0.1 take the place of the batch in
    evaluation, in acting and in the forward passes of targets.
    Order: behind a layer normalisation, as in "Towards perpetually trainable neural networks". Without gain and offset a unit
    cannot drift to always or never firing: "Load Balancing Neurons" finds that this works better than with them.
    Deviations: none. State: gain and offset are parameters, running averages are buffers that target networks copy.
    Optimizer: untouched.
    Does not work with: batches of one example (refused where settings say so). It is known to hurt in
    reinforcement learning, where running averages lag behind a changing policy.
    """

    affine: bool = setting(True, "Whether there are a gain and an offset.")

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Puts the normalisation behind any other.

        Raises:
            ValueError: If the network has a batch normalisation already.
        """
        if any(name in ("batch", "batch_non_affine") for name in spec.normalisation):
            raise ValueError(f"intervention batch_norm would be a second one: network.normalisation={list(spec.normalisation)}")
        return replace(spec, normalisation=[*spec.normalisation, "batch" if self.affine else "batch_non_affine"])
