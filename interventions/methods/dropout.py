"""Dropout as an intervention."""

from dataclasses import dataclass, replace
from typing import ClassVar

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.networks.layers.dropout import draw, dropout_layers
from plasticity.networks.spec import NetworkSpec
from plasticity.settings.fields import setting


@intervention("dropout")
@dataclass
class Dropout(Intervention):
    """Sets random activations of every hidden layer to 0 in each update, and scales up the rest.

    Papers: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", 0.5 in hidden layers.
    Dohare et al. 2024 compare it on online permuted MNIST, where it loses plasticity; their rates are not in the text.
    Equation: h' = m * h / (1 - rate), each entry of m being 0 with probability ``rate`` and 1 otherwise, drawn again for each
    update, example and position. It sits behind the activation and the pooling, at the input of everything that reads the layer:
    the activations of the last hidden layer are dropped before the output too. In residual torsos and transformers it sits
    between the two maps of each block, not on the stream.
    Deviations: scaled while training, where the paper scales the weights down afterwards, which is the same function. Its dropout
    of the inputs and its bound on weights are not implemented (``weight_clipping`` has a bound).
    Acting, evaluation, bootstrapped targets, all metrics and the fits of the probe run without it. Everything that reads the
    activations of the training forward (continual_backprop, firing, dormancy, dr3) reads them before the mask of their layer,
    though those of deeper layers are computed from masked ones. Methods that compute the loss again, such as sam, see the same
    mask.
    State: two random words per layer, buffers of the network; a private generator draws them after every update. Optimizer:
    untouched. Cost: a dozen integer operations on the activations of a layer; on a CPU an update of three layers of 100 units
    takes twice as long with one example, 1.4 times with 256.
    Does not work with: a network without hidden layers (refused). PPO's ratio compares a policy with dropout to one that acted
    without, so that it is not 1 in the first minibatch.
    """

    rates: list[float] = setting(
        [0.5],
        "Probability of a 0: one for all hidden layers, or one for each of the torso's; a dueling head's streams use the last.",
        low=0,
        below=1,
    )

    no_effect: ClassVar = {"rates": [0.0]}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rates:
            raise ValueError("dropout.rates=[] must have one rate for all hidden layers, or one for each")

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Adds the layer behind every hidden layer whose rate is not 0."""
        return replace(spec, dropout_rates=list(self.rates))

    def attach(self, u: Update) -> None:
        """Draws the first masks.

        Raises:
            ValueError: If there is no hidden layer.
        """
        self._layers = dropout_layers(u.network)
        if not u.network.units.layers:
            raise ValueError(
                "intervention dropout acts on hidden layers, and this network has none; give network.widths or a torso"
            )
        self._draw(u)

    def after_step(self, u: Update) -> Logs:
        """Draws the masks of the next update."""
        self._draw(u)
        return {}

    def _draw(self, u: Update) -> None:
        if self._layers:
            draw(self._layers, u.generator)
