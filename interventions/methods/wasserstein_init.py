"""Regularisation towards the distribution of the initial parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Update
from plasticity.interventions.methods.l2 import INCLUDE, included_parameters
from plasticity.interventions.reference import REFERENCE_DOC, REFERENCES, START, initial_values
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import setting

_RADIX_ENTRIES: Final = 1500  # from which on it is faster


def wasserstein_penalty(parameters: Mapping[str, Tensor], initial: Mapping[str, Tensor], coefficient: float) -> Tensor:
    """Returns coefficient * sum over tensors of ||sort(p) - sort(p0)||^2.

    Args:
        parameters: Tensors by name.
        initial: Their initial entries, sorted, (entries,) each.
        coefficient: At least 0.
    """
    distances = [(value.flatten().sort().values - initial[name]).square().sum() for name, value in parameters.items()]
    return torch.stack(distances).sum() * coefficient


def write_targets(target: Tensor, value: Tensor, initial: Tensor) -> None:
    """Writes for each entry of ``value`` the initial entry of the same rank; equal entries may trade ranks.

    Their difference is half the gradient of ||sort(p) - sort(p0)||^2.

    Args:
        target: Contiguous, in the shape of ``value``.
        value: Any shape.
        initial: Its initial entries, sorted, (entries,).
    """
    target.view(-1).scatter_(0, sorting_places(value.flatten()), initial)


def sorting_places(values: Tensor) -> Tensor:
    """Returns the place of the smallest entry, of the next one, and so on, (entries,) int64, without a graph.

    Args:
        values: (entries,).
    """
    if values.device.type != "cpu":
        return values.argsort()
    if values.dtype != torch.float32 or values.numel() < _RADIX_ENTRIES:
        return torch.from_numpy(np.argsort(values.detach().numpy()))
    # Sorting floats compares them, and what that costs depends on the processor's vector instructions: 80,000 entries take
    # 3.7 ms in NumPy on one with AVX-512. NumPy sorts 16-bit integers by their digits, in a tenth of it; so the bits are read as
    # an integer of the same order, and sorted by its lower half, then by its upper half without changing ties.
    bits = values.detach().view(torch.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).numpy()
    places = keys.astype(np.uint16).argsort(kind="stable")
    upper = (keys >> 16).astype(np.int16)
    return torch.from_numpy(places.take(upper.take(places).argsort(kind="stable")))


@intervention("wasserstein_init")
@dataclass
class WassersteinInit(Intervention):
    """Pulls each tensor's sorted entries towards the sorted initial ones, so that only their distribution is kept.

    Paper: Lewandowski et al. 2024, "Directions of Curvature as an Explanation for Loss of Plasticity": the squared 2-Wasserstein
    distance between the entries of a layer and its initial ones; coefficients 1e-2 to 1e-5.
    Equation: loss + coefficient * sum over tensors of ||sort(p) - sort(p0)||^2, added as its gradient. Unlike L2 Init it does not
    change when entries trade places.
    Deviations: weights and biases are separate tensors. Published code that averages over a tensor's entries, and includes
    normalisation, is ``average: mean`` with ``include: all``.
    State: the sorted initial parameters. Optimizer: untouched. Cost: a sort of every tensor at each update, on a CPU some 10 ns
    an entry, outside of a compiled update; for large dense layers and small batches it takes longer than the update itself.
    """

    coefficient: float = setting(1e-3, "Strength.", low=0)
    average: str = setting("sum", "``sum`` over a tensor's entries, or ``mean``.", choices=("sum", "mean"))
    include: str = setting("weights_and_biases", "``weights``, ``weights_and_biases`` or ``all``.", choices=INCLUDE)
    reference: str = setting(START, REFERENCE_DOC, choices=REFERENCES)

    no_effect: ClassVar = {"coefficient": 0.0}

    def attach(self, u: Update) -> None:
        """Sorts the initial parameters."""
        self._targets = {}
        initial = initial_values(u, self.reference)
        for name, value in included_parameters(u.network, self.include).items():
            self.state[name] = initial[name].detach().flatten().sort().values
            self._targets[name] = value.detach().clone(memory_format=torch.contiguous_format)

    def running(self) -> list[Tensor]:
        """The initial entries of the same ranks as the present ones, by parameter."""
        return list(self._targets.values())

    @torch.no_grad()
    def prepare(self, parameters: Mapping[str, Tensor]) -> None:
        """Sorts the parameters and finds their targets."""
        if self.coefficient > 0:
            for name, target in self._targets.items():
                write_targets(target, parameters[name], self.state[name])

    @torch.no_grad()
    def edit_gradients(
        self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], running: Sequence[Tensor]
    ) -> None:
        """Adds the penalty's gradient."""
        targets = dict(zip(self._targets, running, strict=True))
        trained = [name for name in targets if name in gradients]
        if self.coefficient == 0 or not trained:
            return
        own = [gradients[name] for name in trained]
        pulls = torch._foreach_sub([parameters[name] for name in trained], [targets[name] for name in trained])
        if self.average == "sum":
            torch._foreach_add_(own, pulls, alpha=2 * self.coefficient)
            return
        for gradient, pull in zip(own, pulls, strict=True):
            gradient.add_(pull, alpha=2 * self.coefficient / pull.numel())
