"""Continual backpropagation: resets of the least useful mature units at a small steady rate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.quota import Quota
from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.interventions.surgery.unit_statistics import LayerSlices, joined, lowest, mean_over_inputs, require_units
from plasticity.interventions.surgery.unit_transfer import compensate
from plasticity.networks.units import UnitLayer, UnitSlice
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import setting

Lookup = Callable[[str], Tensor]
UTILITIES: Final = ("contribution", "zero_contribution", "adaptable_contribution")


def outgoing_magnitude(tensor: Lookup, layer: UnitLayer) -> Tensor:
    """Returns the mean |w| of everything that reads each unit, (U,); ``tensor`` gives a tensor of the network by name."""
    return _mean_magnitude(tensor, [consumer.weight for consumer in layer.consumers])


def incoming_magnitude(tensor: Lookup, layer: UnitLayer) -> Tensor:
    """Returns the mean |w| of each unit's incoming weights, (U,)."""
    return _mean_magnitude(tensor, [layer.weight])


def _mean_magnitude(tensor: Lookup, slices: list[UnitSlice]) -> Tensor:
    sums, entries = [], 0
    for slice_ in slices:
        values = tensor(slice_.tensor)
        sums.append(slice_.sums(values.abs()))
        entries += values.numel() // values.shape[slice_.axis] * slice_.span * len(slice_.offsets)
    return (sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)) / entries


def mean_deviation(post: Tensor, centre: Tensor | None, copies: int) -> Tensor:
    """Returns the mean |h - centre| of each unit over batch and positions, averaged over a CReLU unit's halves.

    Args:
        post: Post-activations (B, copies * U, ...).
        centre: (copies * U,), or None for 0.
        copies: Channels per unit.
    """
    if centre is not None:
        post = post - centre.view(1, -1, *[1] * (post.ndim - 2))
    deviation = post.abs().flatten(2).mean((0, 2)) if post.ndim > 2 else post.abs().mean(0)
    return deviation.view(copies, -1).mean(0) if copies > 1 else deviation


@intervention("continual_backprop")
@dataclass
class ContinualBackprop(Intervention):
    """Resets, at a small steady rate, the mature units that contribute least.

    Paper: Dohare et al. 2024, "Loss of plasticity in deep continual learning", Nature 632, methods and algorithm 1.
    Equation, per update and layer, with h the unit's activation in the training forward:
    u <- decay u + (1 - decay) y, y = mean|w_out| mean|h|, u_hat = u / (1 - decay^age);
    of the units older than ``maturity_updates``, rate x their number are replaced, those with the lowest u_hat; fractions are
    carried over.
    A replaced unit has fresh incoming weights, bias 0, outgoing weights 0; its mean contribution is added to the biases it fed.
    Deviations: the paper sums |w_out| where this averages, which gives the same order within a layer. The published code (1)
    moves no bias, since it zeroes the mean activation before using it (``bias_compensation: false`` here); (2) uses
    ``adaptable_contribution`` for permuted MNIST and ImageNet: y = mean|w_out| mean|h - h_mean| / mean|w_in|.
    ``zero_contribution`` is that without the division; (3) for PPO leaves Adam's moments as they are (``optimizer_state: keep``)
    and, below one unit, draws whether one is replaced; (4) for the residual network of class-incremental CIFAR-100 uses the sum
    of all |h| so far instead of their average, and there and in convolutions the rate times all units, not the mature ones. The
    figures come from that code; the draw and (4) are not offered. Fresh weights come from the tensor's own initial distribution.
    A CReLU unit's y takes means over both halves, and
    the mean contribution in front of a max-pooling is taken before the pooling.
    State: utility, mean activation, age per unit; per layer the fraction carried and how many units were reset at which update,
    counted on the host. Optimizer: entries written are restarted, moments and step count.
    Does not work with: networks without hidden units (refused). Behind a layer normalisation a reset changes the whole layer.
    """

    replacement_rate: float = setting(1e-4, "Expected share of mature units replaced per update.", low=0, high=1)
    maturity_updates: int = setting(100, "Updates during which a new unit is protected.", low=0)
    decay: float = setting(0.99, "Decay of the running averages.", low=0, below=1)
    utility: str = setting(
        "contribution", "``contribution``, ``zero_contribution`` or ``adaptable_contribution``.", choices=UTILITIES
    )
    bias_compensation: bool = setting(True, "Whether the consumers' biases take over the mean contribution of a replaced unit.")
    optimizer_state: str = setting("restart", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    no_effect: ClassVar = {"replacement_rate": 0.0}

    def attach(self, u: Update) -> None:
        """Makes the running averages."""
        require_units(self.name, u)
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._policy = ResetPolicy(bias="zero", optimizer_state=self.optimizer_state)
        self._layers = u.network.units.layers
        sizes = [layer.units for layer in self._layers]
        self._units = LayerSlices(sizes, u.generator.device)
        self._channels = LayerSlices([layer.units * layer.copies for layer in self._layers], u.generator.device)
        self._utility, self._age, self._mean = self._units.full(), self._units.full(), self._channels.full()
        self._quota, self._carried = Quota(sizes, self.maturity_updates), [0.0] * len(sizes)
        self._rates = [self.replacement_rate] * len(sizes)
        for index, layer in enumerate(self._layers):
            self.state[f"{layer.name}/utility"] = self._units.of(self._utility, index)
            self.state[f"{layer.name}/age"] = self._units.of(self._age, index)
            self.state[f"{layer.name}/mean"] = self._channels.of(self._mean, index)

    def running(self) -> list[Tensor]:
        """Returns utilities, ages and mean activations."""
        return [self._utility, self._age, self._mean]

    @torch.no_grad()
    def measure(self, parameters: Mapping[str, Tensor], post: Mapping[str, Tensor], running: Sequence[Tensor]) -> None:
        """Updates the averages of all layers, in few operations on all of them together."""
        utility, age, mean = running
        posts: Sequence[Tensor] = [post[layer.name].float() for layer in self._layers]
        posts = joined(posts) if all(layer.copies == 1 for layer in self._layers) else posts
        age.add_(1)
        mean.lerp_(mean_over_inputs(posts), 1 - self.decay)
        current = self._deviations(posts, age, mean) * torch.cat(
            [outgoing_magnitude(parameters.__getitem__, layer) for layer in self._layers]
        )
        if self.utility == "adaptable_contribution":
            incoming = torch.cat([incoming_magnitude(parameters.__getitem__, layer) for layer in self._layers])
            # 0 / 0, of a unit whose inputs were all replaced, would stay in the average for ever.
            current = current / incoming.clamp(min=torch.finfo(torch.float32).eps)
        utility.lerp_(current.to(utility.dtype), 1 - self.decay)

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Replaces the units that are due."""
        self._quota.count_mature(u.step)
        counts = self._quota.take(self._carried, self._rates, u.step)
        return {"units_reset": self._replace(u, counts) if counts else 0.0}

    def state_dict(self) -> dict[str, Any]:
        """Returns the averages, and what is counted on the host."""
        return {**super().state_dict(), "carried": list(self._carried), "quota": self._quota.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned; ValueError if it is another method's."""
        super().load_state_dict({name: value for name, value in state.items() if name not in ("carried", "quota")})
        self._carried[:] = state["carried"]
        self._quota.load_state_dict(state["quota"])

    def _deviations(self, posts: Sequence[Tensor], age: Tensor, mean: Tensor) -> Tensor:
        from_zero = self.utility == "contribution"
        if len(posts) == 1:  # a single layer, or dense layers joined
            copies = self._layers[0].copies
            return mean_deviation(posts[0], None if from_zero else mean / self._bias_correction(age.repeat(copies)), copies)
        centres = [None if from_zero else self._mean_activation(index, age, mean) for index in range(len(posts))]
        layers = zip(posts, centres, self._layers, strict=True)
        return torch.cat([mean_deviation(post, centre, layer.copies) for post, centre, layer in layers])

    def _replace(self, u: Update, counts: list[int]) -> Tensor:
        eligible = self._age > self.maturity_updates
        corrected = self._utility / self._bias_correction(self._age)
        due = [index for index, count in enumerate(counts) if count]
        masks: dict[str, Tensor] = {}
        for index in due:
            layer = self._layers[index]
            mask = lowest(self._units.of(corrected, index), self._units.of(eligible, index), counts[index])
            masks[layer.name] = mask
            if self.bias_compensation:
                average = self._mean_activation(index, self._age, self._mean)
                compensate(u.network, layer, torch.where(mask.repeat(layer.copies), average, 0.0))
        reset = reset_units(u.network, u.optimizer, masks, self._policy, u.generator)
        for index, mask in zip(due, masks.values(), strict=True):
            self._units.of(self._utility, index).masked_fill_(mask, 0.0)
            self._units.of(self._age, index).masked_fill_(mask, 0.0)
            self._channels.of(self._mean, index).masked_fill_(mask.repeat(self._layers[index].copies), 0.0)
        return reset

    def _bias_correction(self, age: Tensor) -> Tensor:
        return 1 - self.decay**age

    def _mean_activation(self, index: int, age: Tensor, mean: Tensor) -> Tensor:
        """Returns the bias-corrected mean activation of every post-activation channel of a layer."""
        ages = self._units.of(age, index).repeat(self._layers[index].copies)
        return self._channels.of(mean, index) / self._bias_correction(ages)
