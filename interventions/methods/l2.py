"""L2 regularisation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.networks.network import Network
from plasticity.settings.fields import require_choice, setting

INCLUDE: Final = ("weights", "weights_and_biases", "all")


def l2_penalty(parameters: Mapping[str, Tensor], coefficient: float) -> Tensor:
    """Returns coefficient / 2 * sum of squares of all entries; its gradient is coefficient * parameter."""
    return torch.stack([parameter.square().sum() for parameter in parameters.values()]).sum() * (coefficient / 2)


def included_parameters(network: Network, include: str) -> dict[str, torch.nn.Parameter]:
    """Returns the parameters a regulariser acts on.

    Args:
        network: The network.
        include: ``weights`` (of linear maps), ``weights_and_biases`` (normalisation left out) or ``all``.

    Raises:
        ValueError: If ``include`` is none of these.
    """
    require_choice("include", include, INCLUDE)
    if include == "weights":
        return network.weights()
    every = dict(network.named_parameters())
    return every if include == "all" else {name: value for name, value in every.items() if name not in network.norm_parameters}


@intervention("l2")
@dataclass
class L2(Intervention):
    """Pulls weights towards 0.

    Equation: loss + coefficient / 2 * sum w^2, added as its exact gradient; or decoupled, w <- (1 - lr * coefficient) w after
    the step (Loshchilov & Hutter 2019). With plain SGD both are the same; with Adam they are not.
    Paper: coefficient 1e-5 with layer normalisation in "Towards perpetually trainable neural networks", section 4.2, which does
    not say whether its penalty has the factor 1/2.
    Deviations: none. PyTorch's ``weight_decay`` c is the same c with ``include: all``. Code that adds c * sum p^2 to the loss,
    such as that of permuted Shakespeare by Farias & Jozefiak 2025, corresponds to twice its c here.
    State: none. Optimizer: untouched.
    """

    coefficient: float = setting(1e-5, "Strength.", low=0)
    mode: str = setting("loss", "``loss`` or ``decoupled``.", choices=("loss", "decoupled"))
    include: str = setting("weights", "``weights``, ``weights_and_biases`` or ``all`` (with normalisation).", choices=INCLUDE)

    no_effect: ClassVar = {"coefficient": 0.0}

    def attach(self, u: Update) -> None:
        """Chooses the parameters."""
        self._parameters = included_parameters(u.network, self.include)

    @property
    def idle_hooks(self) -> tuple[str, ...]:
        """The hook of the other mode."""
        return ("after_step",) if self.mode == "loss" else ("edit_gradients",)

    @torch.no_grad()
    def edit_gradients(
        self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], running: Sequence[Tensor]
    ) -> None:
        """Adds the penalty's gradient: the same as a term of the loss, without a graph for it."""
        if self.coefficient > 0:
            trained = [name for name in self._parameters if name in gradients]
            torch._foreach_add_(
                [gradients[name] for name in trained], [parameters[name] for name in trained], alpha=self.coefficient
            )

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Shrinks the weights if decoupled."""
        if self.coefficient > 0:
            torch._foreach_mul_(list(self._parameters.values()), 1 - u.optimizer.param_groups[0]["lr"] * self.coefficient)
        return {}
