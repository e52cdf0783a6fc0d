"""ReDo: recycling dormant units."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update, is_multiple
from plasticity.interventions.reference import REFERENCE_DOC, REFERENCES, START, initial_values
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.interventions.surgery.unit_statistics import averaged_at, mean_activity, require_units
from plasticity.networks.units import UnitLayer
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import require_choice, require_range, setting


def dormant(activity: Tensor, threshold: float) -> Tensor:
    """Marks units whose share of the layer's mean activity is at most ``threshold``: equation 1 of Sokar et al. 2023.

    The comparison is multiplied out, activity <= threshold * mean, so all units of an entirely silent layer are dormant.

    Args:
        activity: Mean |h| per unit, (U,).
        threshold: tau, at least 0.

    Returns:
        Boolean (U,).
    """
    return activity <= threshold * activity.mean()


@intervention("redo")
@dataclass
class ReDo(Intervention):
    """Resets dormant units: incoming weights are drawn again, outgoing weights become 0.

    Paper: Sokar et al. 2023, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", equation 1 and algorithm 1:
    tau 0.025 (0.1 at high replay ratios), every 1,000 updates.
    Equation: unit i of a layer is dormant if E|h_i| <= tau * mean over k of E|h_k|, over the training batch (and positions).
    Deviations: the activations are those of the training forward, made just before the step; the consumer's bias is untouched.
    Published variants: the authors' code has ``every_updates: 200000`` by default, ``incoming: xavier`` and ``bias: zero``; the
    comparison in "Maintaining Plasticity in Continual Learning via Regenerative Regularization" gives units their initial values
    back, ``incoming: restore`` and ``bias: restore``; a port to PyTorch finds ``optimizer_state: restart`` crucial.
    State: running sums of activity while an average over several updates is made; the initial values for ``restore``. Optimizer:
    moments of every entry written are cleared and the step count kept, as published; ``restart`` also clears the count.
    Does not work with: networks without hidden units (refused). Behind a layer normalisation a reset changes the whole layer, and
    fresh rows, small compared with grown ones, can be found dormant again at once.
    """

    threshold: float = setting(0.025, "tau.", low=0)
    every_updates: int = setting(1000, "Period in updates, 0 for never.", low=0)
    average_updates: int = setting(1, "Updates before the reset whose batches are averaged, for small batches; 1 in the paper.")
    incoming: str = setting(
        "resample",
        "Where fresh incoming weights come from: ``resample`` draws from that tensor's own initial "
        "distribution, ``xavier`` from Xavier's uniform one for any network, ``restore`` brings the "
        "initial values back.",
        choices=("resample", "xavier", "restore"),
    )
    bias: str = setting(
        "resample",
        "What happens to the unit's bias: ``resample``, ``zero`` or ``restore``.",
        choices=("resample", "zero", "restore"),
    )
    optimizer_state: str = setting("zero", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)
    reference: str = setting(START, REFERENCE_DOC, choices=REFERENCES)

    needs_taps: ClassVar = True
    no_effect: ClassVar = {"every_updates": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("redo.average_updates", self.average_updates, 1, max(1, self.every_updates))
        restores = "restore" in (self.incoming, self.bias)  # otherwise there is nothing to refer to
        require_choice("redo.reference", self.reference, REFERENCES if restores else (START,))

    def attach(self, u: Update) -> None:
        """Makes the sums, and copies the initial values if they are to be restored."""
        require_units(self.name, u)
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._policy = ResetPolicy(self.incoming, self.bias, optimizer_state=self.optimizer_state)
        self._initial: dict[str, Tensor] = {}
        initial = initial_values(u, self.reference)
        for layer in u.network.units.layers:
            self.state[layer.name] = torch.zeros(layer.units, device=u.generator.device)
            restored = layer.weights if self.incoming == "restore" else ()
            restored += layer.biases if self.bias == "restore" else ()
            for slice_ in restored:
                self._initial[slice_.tensor] = initial[slice_.tensor].detach().clone()
        self.state.update({f"initial/{name}": value for name, value in self._initial.items()})

    def acts_at(self, step: int) -> bool:
        """Tells whether the update is one of the last of a period."""
        return averaged_at(step, self.every_updates, self.average_updates)

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Sums activities over the last updates of a period, then resets."""
        if not self.acts_at(u.step):
            return {}
        layers = u.network.units.layers
        for layer in layers:
            self.state[layer.name] += mean_activity(u.taps.post[layer.name], layer.copies)
        return self._reset(u, layers) if is_multiple(u.step, self.every_updates) else {}

    def _reset(self, u: Update, layers: tuple[UnitLayer, ...]) -> Logs:
        masks = {layer.name: dormant(self.state[layer.name], self.threshold) for layer in layers}
        for layer in layers:
            self.state[layer.name].zero_()
        return {"units_reset": reset_units(u.network, u.optimizer, masks, self._policy, u.generator, self._initial)}
