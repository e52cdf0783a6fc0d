"""How long each unit has been silent, and the resets of units that were silent for too long."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update, is_multiple
from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.interventions.surgery.unit_statistics import LayerSlices, joined, require_units
from plasticity.networks.layers.activations import activation_named
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import setting

UNITS_OF_TIME: Final = ("example", "step")


def firings(posts: Sequence[Tensor], copies: Sequence[int], level: float, count: bool) -> Tensor:
    """Tells which units fire, or counts how often, layer after layer in one vector.

    Args:
        posts: Post-activations of each layer, (B, copies * U, ...), of one batch size.
        copies: Channels per unit of each layer; a unit fires where any of its channels does.
        level: A channel fires where its activation is above this.
        count: Whether to count.

    Returns:
        Boolean (units of all layers,): whether the unit fires on any example, at any position. With ``count``, float32: the share
        of examples and positions on which it fires.
    """
    posts = joined(posts) if set(copies) == {1} else posts
    found = [_firings(post > level, channels, count) for post, channels in zip(posts, copies, strict=False)]
    return found[0] if len(found) == 1 else torch.cat(found)


def _firings(on: Tensor, copies: int, count: bool) -> Tensor:
    if copies > 1:
        on = on.unflatten(1, (copies, -1)).any(1)
    on = on.flatten(2) if on.ndim > 2 else on
    axes = (0, 2) if on.ndim > 2 else (0,)
    return on.float().mean(axes) if count else on.any(2).any(0) if on.ndim > 2 else on.any(0)


@dataclass
class SilentUnitResets(Intervention, ABC):
    """What methods that reset silent units share; each decides in its own way how long a unit may be silent."""

    unit_of_time: str = setting(
        "example", "``example`` or ``step``: a silent batch ages a unit by its examples, or by 1.", choices=UNITS_OF_TIME
    )
    firing_level: float = setting(0.0, "A unit fires where its activation is above this; 0 in the papers.", low=0)
    check_every_updates: int = setting(
        1, "Updates between two checks of the ages. On an accelerator every check writes all weights.", low=1
    )
    bias: str = setting(
        "zero", "What happens to the bias of a reset unit: ``zero`` or ``resample``.", choices=("zero", "resample")
    )
    optimizer_state: str = setting("zero", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    def attach(self, u: Update) -> None:
        """Makes ages and thresholds, all of them for all layers together."""
        require_units(self.name, u)
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._policy = ResetPolicy(bias=self.bias, optimizer_state=self.optimizer_state)
        self._layers = u.network.units.layers
        for layer in self._layers:
            if not activation_named(layer.activation).threshold:
                raise ValueError(
                    f"intervention {self.name} counts when units fire, and activation {layer.activation} has no threshold; "
                    "choose relu, leaky_relu, gelu or crelu"
                )
        self._copies = [layer.copies for layer in self._layers]
        self._units = LayerSlices([layer.units for layer in self._layers], u.generator.device)
        self._age = self._units.full()
        self._threshold = self._units.full(self._first_threshold())
        # What ``measure`` counted in the latest update. The host reads it only after a batch larger than all earlier ones.
        self._examples = torch.zeros((), dtype=torch.int64, device=u.generator.device)
        self.state.update(age=self._age, threshold=self._threshold, time_per_update=0.0, examples_per_update=0)
        self._largest_batch = 0
        self._next_check = 0.0

    def running(self) -> list[Tensor]:
        """Returns the number of examples in the latest update, the ages, and what a subclass records."""
        return [self._examples, self._age, *self._recorded()]

    @torch.no_grad()
    def measure(self, parameters: Mapping[str, Tensor], post: Mapping[str, Tensor], running: Sequence[Tensor]) -> None:
        """Ages every unit that is silent on the whole batch."""
        examples, age, *recorded = running
        posts = [post[layer.name] for layer in self._layers]
        count = posts[0].shape[0]
        examples.fill_(count)
        time = self._time_of(count)
        fired = firings(posts, self._copies, self.firing_level, self._counts())
        self._record(fired, time, age, recorded)
        age.add_(time).masked_fill_(fired if fired.dtype == torch.bool else fired > 0, 0.0)

    def after_step(self, u: Update) -> Logs:
        """Resets the units that were silent for too long."""
        self._note_length(u)
        return self._reset_silent(u)

    def _note_length(self, u: Update) -> None:
        """Remembers how many examples the longest update so far has, and its length in units of time."""
        given = None if u.batch is None else u.batch.inputs
        inputs = given.shape[0] if isinstance(given, Tensor) else max(len(post) for post in u.taps.post.values())
        if inputs > self._largest_batch:
            self._largest_batch = inputs
            examples = int(self._examples)
            if examples > self.state["examples_per_update"]:
                self.state.update(examples_per_update=examples, time_per_update=self._time_of(examples))
                self._next_check = 0.0

    def _time_of(self, examples: int) -> float:
        return float(examples) if self.unit_of_time == "example" else 1.0

    @torch.no_grad()
    def _reset_silent(self, u: Update) -> Logs:
        if self._never() or not is_multiple(u.step, self.check_every_updates) or u.step < self._next_check:
            return {"units_reset": 0.0}
        mask = self._age >= self._threshold
        if mask.device.type == "cpu":
            # Reading a number costs nothing on the CPU, and writing through a mask costs more than the update itself.
            found, slack = bool(mask.any()), float((self._threshold - self._age)[~mask].min()) if not bool(mask.all()) else 0.0
            self._next_check = u.step + max(1.0, slack / self.state["time_per_update"])
            if not found:
                return {"units_reset": 0.0}
        return {"units_reset": self._reset(u, mask)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned; ValueError if it is another method's."""
        super().load_state_dict(state)
        self._next_check, self._largest_batch = 0.0, 0

    def _reset(self, u: Update, mask: Tensor) -> Tensor:
        masks = {layer.name: self._units.of(mask, index) for index, layer in enumerate(self._layers)}
        self._record_resets(mask)
        self._age.masked_fill_(mask, 0.0)
        self._next_check = 0.0  # a reset unit's threshold may be the nearest
        return reset_units(u.network, u.optimizer, masks, self._policy, u.generator)

    @abstractmethod
    def _first_threshold(self) -> float:
        """Returns the age, in units of time, at which units are reset at the start."""

    @abstractmethod
    def _never(self) -> bool:
        """Tells whether the settings say that nothing is ever reset."""

    def _counts(self) -> bool:
        """Tells whether ``_record`` needs shares of examples instead of whether a unit fired."""
        return False

    def _recorded(self) -> list[Tensor]:
        """Returns the tensors that ``_record`` changes."""
        return []

    def _record(self, fired: Tensor, time: float, age: Tensor, recorded: Sequence[Tensor]) -> None:
        """Records what ``firings`` returned, in ``recorded``; a function of its arguments, as ``measure`` is.

        Args:
            fired: What it returned.
            time: Length of the update.
            age: Of each unit, before this update.
            recorded: What ``_recorded`` returns.
        """

    def _record_resets(self, mask: Tensor) -> None:
        """Records which units are about to be reset, at their present ages."""
