"""Spectral normalisation of some hidden layers."""

from dataclasses import dataclass, replace

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import intervention
from plasticity.networks.spec import NetworkSpec
from plasticity.settings.fields import setting


@intervention("spectral_norm")
@dataclass
class SpectralNorm(Intervention):
    """Divides the weights of chosen hidden layers by their largest singular value.

    Papers: Miyato et al. 2018, equation 8; in reinforcement learning Gogianu et al. 2021, who normalise few layers, often only
    the last hidden one: the default here.
    Equation: z = (W / sigma) x + b, sigma = u^T W v, one power iteration for u and v at each training forward; the gradient
    passes through sigma.
    Deviations: none. State: u and v are buffers that target networks copy. Optimizer: untouched; it steps on W itself, whose
    scale is free.
    Does not work with: noise (in a noisy layer the means are divided, the noise is not). A unit reset changes sigma, so
    that resetting a dead unit does not leave the network's function unchanged; u and v follow within a few updates.
    """

    layers: list[int] = setting([-1], "Numbers of hidden layers, counted from 1, or from the last by -1.")

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Names the layers."""
        return replace(spec, spectral_layers=[*spec.spectral_layers, *self.layers])
