"""Another activation in all hidden layers."""

from dataclasses import dataclass, replace
from typing import Any

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import intervention
from plasticity.networks.layers.activations import activation_named
from plasticity.networks.spec import NetworkSpec
from plasticity.settings.fields import setting


@intervention("activation")
@dataclass
class ActivationSwap(Intervention):
    """Replaces the activation of every hidden layer, and may shift its input.

    Papers: CReLU, relu(z) next to relu(-z) (Abbas et al. 2023); PELU (Trottier et al. 2017); rational (Molina et al. 2020;
    Delfosse et al. 2021); Fourier features, sin(z) next to cos(z) (Lewandowski et al. 2024); leaky_relu, elu, gelu, tanh, abs.
    The offset, phi(z + o) with o = -1 or 1, starts networks near dead or near linear ("Towards perpetually trainable neural
    networks").
    Equation: those of ``plasticity.networks.layers.activations``. An activation of two outputs per unit doubles what the next
    layer reads; ``keep_features`` halves the units instead, so that every layer passes on as many features as before.
    Deviations: PELU has coefficients for each unit, clamped at 0.1; a rational has coefficients for each layer, initially a fit
    to a leaky relu. State: these coefficients are parameters. Optimizer: untouched.
    Does not work with: load balancing, for activations without a threshold (refused when the network is built).
    """

    activation: str = setting("crelu", "A name of ``plasticity.networks.layers.activations``.")
    offset: float = setting(0.0, "Added to what every activation receives.")
    keep_features: bool = setting(True, "Whether an activation with two outputs per unit gets half as many units.")

    def __post_init__(self) -> None:
        super().__post_init__()
        activation_named(self.activation)

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Names the activation for all layers.

        Raises:
            ValueError: If a layer with an odd number of units would have to be halved.
        """
        copies = activation_named(self.activation).copies if self.keep_features else 1
        layers = {name: units for name in spec.sizes if isinstance(units := getattr(spec, name), list)}
        odd = [units for of_layers in layers.values() for units in of_layers if units % copies]
        if odd:
            raise ValueError(
                f"interventions.activation.keep_features=true halves the units of every layer, but one has {odd[0]}; "
                "choose even widths and channels, or keep_features=false"
            )
        halved: dict[str, Any] = {name: [units // copies for units in of_layers] for name, of_layers in layers.items()}
        offset = spec.activation_offset + self.offset
        return replace(spec, activations=[self.activation], activation_offset=offset, **halved)
