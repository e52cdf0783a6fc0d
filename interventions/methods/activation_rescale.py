"""Rescaling of the units whose mean activation is the lowest or the highest of their layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.quota import Quota
from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.interventions.surgery.unit_statistics import LayerSlices, lowest, mean_over_inputs, require_units
from plasticity.networks.layers.activations import activation_named
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import setting


class Rescaling(NamedTuple):
    """What happens to the units of a layer: factors of the lowest and the highest, and how often, per update and mature unit."""

    low_scale: float
    high_scale: float
    low_rate: float
    high_rate: float


FOR_RELU: Final = Rescaling(-0.5, 0.5, 1e-4, 1e-5)
FOR_TANH: Final = Rescaling(0.5, 0.2, 1e-5, 1e-6)
STRATEGIES: Final = ("per_activation", "relu", "tanh", "opposite")


def rescaling_of(strategy: str, activation: str) -> Rescaling:
    """Returns the published numbers for a layer: those of tanh for activations that saturate, those of relu for the others."""
    saturates = activation_named(activation).saturation is not None
    for_tanh = {"per_activation": saturates, "opposite": not saturates, "relu": False, "tanh": True}[strategy]
    return FOR_TANH if for_tanh else FOR_RELU


@intervention("activation_rescale")
@dataclass
class ActivationRescale(Intervention):
    """Scales, at a small steady rate, the incoming weights of the units with the lowest and highest mean activation.

    Paper: a thesis on plasticity in online continual learning with strategies adapted to the activation; benchmark: permuted
    MNIST online, batch 1, an MLP 784-100-100-100-10, SGD at 0.003.
    Equation, per update and layer: v <- decay v + (1 - decay) mean(h), signed; v_hat = v / (1 - decay^age); of the units older
    than ``maturity_updates``, rate x their number are scaled, fractions carried over: w_in <- scale w_in. First those with the
    lowest v_hat at ``low_rate``, then, of the others, those with the highest at ``high_rate``. A scaled unit's v and age are 0
    again; outgoing weights stay. Low at a scale of -0.5 turns a dead relu to the side on which it fires.
    Defaults: relu layers low -0.5 at 1e-4, high 0.5 at 1e-5; tanh layers low 0.5 at 1e-5, high 0.2 at 1e-6. (For the tanh layers
    of the network of five mixed layers, the published code has low at 1e-6 and high at 1e-5 instead.)
    Deviations: the text scales weights; the published code scales biases too, as is done here (``scale_bias: false`` for the
    text); it also clamps weights and biases of all hidden layers to +-10 at every update (``clamp: 10``). It clears the moments
    of outgoing weights too; here they are left alone, like the weights. A CReLU unit's activation is the mean of its halves.
    State: mean activation and update of the last scaling per unit; per layer the fractions carried and how many units were scaled
    at which update, counted on the host. Optimizer: entries written are restarted, moments and step count.
    Does not work with: networks without hidden units (refused). Not function-preserving. Behind a normalisation, which undoes a
    factor, only its sign and the bias act. Target networks are left alone.
    """

    strategy: str = setting(
        "per_activation",
        "``per_activation`` for the numbers that belong to each layer's activation, ``opposite`` for those of"
        " the other one, ``relu`` or ``tanh`` for these in all layers.",
        choices=STRATEGIES,
    )
    low_scale: list[float] = setting(
        [], "Factor of the lowest units: one for all layers or one for each; empty for the strategy's. Likewise the next three."
    )
    high_scale: list[float] = setting([], "Factor of the highest units.")
    low_rate: list[float] = setting([], "Share of mature units scaled as the lowest per update.", low=0, high=1)
    high_rate: list[float] = setting([], "Share of mature units scaled as the highest.", low=0, high=1)
    maturity_updates: int = setting(100, "Updates after a scaling during which a unit is left alone.", low=0)
    decay: float = setting(0.99, "Decay of the running mean.", low=0, below=1)
    scale_bias: bool = setting(True, "Whether the bias is scaled too.")
    clamp: float = setting(0.0, "Bound of the weights and biases of hidden layers after every update; 0 for none.", low=0)
    optimizer_state: str = setting("restart", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    no_effect: ClassVar = {"low_rate": [0.0], "high_rate": [0.0]}

    def attach(self, u: Update) -> None:
        """Makes the running means, and chooses the numbers for each layer."""
        require_units(self.name, u)
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._layers = u.network.units.layers
        self._rescalings = self._rescalings_of([layer.activation for layer in self._layers])
        sizes = [layer.units for layer in self._layers]
        self._units = LayerSlices(sizes, u.generator.device)
        self._channels = LayerSlices([layer.units * layer.copies for layer in self._layers], u.generator.device)
        self._mean, self._scaled_at = self._channels.full(), self._units.full().long()
        self._quota = Quota(sizes, self.maturity_updates)
        self._low_carried, self._high_carried = [0.0] * len(sizes), [0.0] * len(sizes)
        self._low_rates = [rescaling.low_rate for rescaling in self._rescalings]
        self._high_rates = [rescaling.high_rate for rescaling in self._rescalings]
        hidden = [slice_.tensor for layer in self._layers for slice_ in (*layer.weights, *layer.biases)]
        self._clamped = [u.network.tensor(name).detach() for name in hidden]
        self.state.update(mean=self._mean, scaled_at=self._scaled_at)

    def running(self) -> list[Tensor]:
        """Returns the mean activations."""
        return [self._mean]

    @torch.no_grad()
    def measure(self, parameters: Mapping[str, Tensor], post: Mapping[str, Tensor], running: Sequence[Tensor]) -> None:
        """Updates the means of all layers together."""
        running[0].lerp_(mean_over_inputs([post[layer.name] for layer in self._layers]), 1 - self.decay)

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Scales the units that are due, low ones first."""
        scaled: Tensor | float = 0.0
        self._quota.count_mature(u.step)
        if low := self._quota.take(self._low_carried, self._low_rates, u.step):
            scaled = self._rescale(u, low, [rescaling.low_scale for rescaling in self._rescalings], sign=1)
        if high := self._quota.take(self._high_carried, self._high_rates, u.step):
            scaled = scaled + self._rescale(u, high, [rescaling.high_scale for rescaling in self._rescalings], sign=-1)
        if self.clamp:
            torch._foreach_clamp_min_(self._clamped, -self.clamp)
            torch._foreach_clamp_max_(self._clamped, self.clamp)
        return {"units_rescaled": scaled}

    def state_dict(self) -> dict[str, Any]:
        """Returns the means, and what is counted on the host."""
        carried = {"low_carried": list(self._low_carried), "high_carried": list(self._high_carried)}
        return {**super().state_dict(), **carried, "quota": self._quota.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned; ValueError if it is another method's."""
        counted = ("low_carried", "high_carried", "quota")
        super().load_state_dict({name: value for name, value in state.items() if name not in counted})
        self._low_carried[:], self._high_carried[:] = state["low_carried"], state["high_carried"]
        self._quota.load_state_dict(state["quota"])

    def _rescalings_of(self, activations: list[str]) -> list[Rescaling]:
        chosen = [rescaling_of(self.strategy, activation) for activation in activations]
        for name in Rescaling._fields:
            given = getattr(self, name)
            if len(given) not in (0, 1, len(chosen)):
                raise ValueError(
                    f"activation_rescale.{name} has {len(given)} entries; give none, 1 or {len(chosen)}, one for each layer"
                )
            if given:
                values = given * len(chosen) if len(given) == 1 else given
                chosen = [numbers._replace(**{name: value}) for numbers, value in zip(chosen, values, strict=True)]
        return chosen

    def _rescale(self, u: Update, counts: list[int], scales: list[float], sign: int) -> Tensor:
        """Scales the units of the lowest ``sign`` times mean activation."""
        age = u.step - self._scaled_at
        total = torch.zeros((), dtype=torch.int64, device=age.device)
        for index, count in enumerate(counts):
            if count:
                layer, ages = self._layers[index], self._units.of(age, index)
                mean = self._channels.of(self._mean, index)
                corrected = mean.view(layer.copies, -1).mean(0) / (1 - self.decay**ages)
                mask = lowest(sign * corrected, ages > self.maturity_updates, count)
                total += reset_units(u.network, u.optimizer, {layer.name: mask}, self._policy(scales[index]), u.generator)
                mean.masked_fill_(mask.repeat(layer.copies), 0.0)
                self._units.of(self._scaled_at, index).masked_fill_(mask, u.step)
        return total

    def _policy(self, factor: float) -> ResetPolicy:
        bias = "scale" if self.scale_bias else "keep"
        return ResetPolicy("scale", bias, "keep", norm=False, optimizer_state=self.optimizer_state, factor=factor)
