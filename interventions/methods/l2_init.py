"""L2 Init: regularisation towards the initial parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.methods.l2 import INCLUDE, included_parameters
from plasticity.interventions.reference import REFERENCE_DOC, REFERENCES, START, initial_values
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import require_choice, setting

DISTANCES: Final = ("squared", "l1", "huber", "joint_norm", "tensor_norm")


def l2_init_penalty(parameters: Mapping[str, Tensor], initial: Mapping[str, Tensor], coefficient: float) -> Tensor:
    """Returns coefficient / 2 * sum (p - p0)^2; its gradient is coefficient * (p - p0)."""
    return torch.stack([(value - initial[name]).square().sum() for name, value in parameters.items()]).sum() * (coefficient / 2)


def pulls(displacements: list[Tensor], distance: str) -> list[Tensor]:
    """Returns the gradient of a distance with respect to each tensor's displacement d, in its shape.

    Args:
        displacements: p - p0 of each tensor; may be overwritten.
        distance: ``squared`` (sum of d^2 / 2: d), ``l1`` (sum of |d|: sign d), ``huber`` (sum of Huber's function with threshold
            1: d clipped to [-1, 1]), ``joint_norm`` (the root of the sum of d^2 over all tensors together: d / ||all d||, and 0
            at 0) or ``tensor_norm`` (such a root of each tensor, summed: d / ||d||, and 0 at 0).
    """
    if distance == "l1":
        torch._foreach_sign_(displacements)
    elif distance == "huber":
        torch._foreach_clamp_max_(displacements, 1.0)
        torch._foreach_clamp_min_(displacements, -1.0)
    elif distance in ("joint_norm", "tensor_norm"):
        norms = torch.stack(torch._foreach_norm(displacements))
        norms = norms.norm().expand_as(norms) if distance == "joint_norm" else norms
        torch._foreach_div_(displacements, list(torch.where(norms > 0, norms, 1.0)))
    return displacements


@intervention("l2_init")
@dataclass
class L2Init(Intervention):
    """Pulls parameters towards their initial values (regenerative regularisation).

    Paper: Kumar et al. 2023, "Maintaining Plasticity in Continual Learning via Regenerative Regularization", equation 1; the
    coefficient is swept over 1e-2 ... 1e-5 in its code, with L1 Init, Huber Init and fresh draws as variants.
    Equation: loss + coefficient / 2 * sum (p - p0)^2 over all parameters but those of normalisation, added as its gradient.
    Published code: ``distance: joint_norm`` with ``include: all`` and coefficient 0.01 is the un-squared norm of all parameters
    concatenated (Juliani & Ash 2024 and Plasticine, whose figures come from it); ``tensor_norm`` takes a norm of each tensor and
    is in no code; ``average: mean`` divides each tensor's term by its entries, as the code of Parseval regularisation does, whose
    coefficients, 0.001 to 0.01, must be doubled here because its term lacks the 1/2.
    Deviations: the paper writes the sum without the factor 1/2, so its coefficient is half of this one; its code has the 1/2.
    That of Farias & Jozefiak 2025 does not have it, and sums over all parameters: twice their coefficient, ``include: all``.
    State: a copy of the initial parameters, unless ``towards: fresh``. Optimizer: untouched.
    """

    coefficient: float = setting(1e-3, "Strength.", low=0)
    include: str = setting("weights_and_biases", "``weights``, ``weights_and_biases`` or ``all``.", choices=INCLUDE)
    distance: str = setting(
        "squared",
        "``squared``, ``l1``, ``huber`` (threshold 1), ``joint_norm`` or ``tensor_norm``; only the first has "
        "the factor 1/2, huber inside it.",
        choices=DISTANCES,
    )
    average: str = setting(
        "sum",
        "``sum`` over a tensor's entries, or ``mean``: the tensor's term divided by their number; not for "
        "``joint_norm``, which has one term for all tensors.",
    )
    towards: str = setting(
        "initial",
        "``initial`` values, or ``fresh`` draws from the initial distribution at each update.",
        choices=("initial", "fresh"),
    )
    reference: str = setting(START, REFERENCE_DOC, choices=REFERENCES)

    no_effect: ClassVar = {"coefficient": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("l2_init.average", self.average, ("sum",) if self.distance == "joint_norm" else ("sum", "mean"))
        require_choice("l2_init.reference", self.reference, REFERENCES if self.towards == "initial" else (START,))

    def attach(self, u: Update) -> None:
        """Copies the initial parameters."""
        self._parameters = included_parameters(u.network, self.include)
        if self.towards == "initial":
            initial = initial_values(u, self.reference)
            for name in self._parameters:
                self.state[name] = initial[name].detach().clone()

    @property
    def idle_hooks(self) -> tuple[str, ...]:
        """Fresh draws are no function of tensors alone."""
        return ("after_backward",) if self.towards == "initial" else ("edit_gradients",)

    def running(self) -> list[Tensor]:
        """The initial values."""
        return list(self.state.values())

    @torch.no_grad()
    def edit_gradients(
        self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], running: Sequence[Tensor]
    ) -> None:
        """Adds the penalty's gradient, towards the initial values."""
        rows = [
            (parameters[name], gradients[name], target)
            for name, target in zip(self.state, running, strict=True)
            if name in gradients
        ]
        self._add([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])

    @torch.no_grad()
    def after_backward(self, u: Update) -> Logs:
        """Adds the penalty's gradient, towards fresh draws."""
        trained = {name: value for name, value in self._parameters.items() if value.grad is not None}
        initialisers = u.network.initialisers
        targets = [initialisers[name].sample(value.shape, u.generator) for name, value in trained.items()]
        gradients = [value.grad for value in trained.values() if value.grad is not None]
        self._add([value.detach() for value in trained.values()], gradients, targets)
        return {}

    def _add(self, values: list[Tensor], gradients: list[Tensor], targets: list[Tensor]) -> None:
        if not values or self.coefficient == 0:
            return
        pull = pulls(list(torch._foreach_sub(values, targets)), self.distance)
        if self.average == "mean":
            torch._foreach_div_(pull, [value.numel() for value in values])
        torch._foreach_add_(gradients, pull, alpha=self.coefficient)
