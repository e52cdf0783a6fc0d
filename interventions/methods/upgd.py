"""Utility-based perturbed gradient descent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import setting

SCALINGS: Final = ("global", "local")
RULES: Final = ("paper", "published")
_STEP: Final = "step"


@torch.no_grad()
def gates(utilities: Sequence[Tensor], scaling: str, rule: str = "paper", correction: float = 1.0) -> list[Tensor]:
    """Returns how much each weight is protected, sigmoid(U / max U), in (0, 1).

    Args:
        utilities: Bias-corrected averages, one tensor for each parameter.
        scaling: ``global``, by the largest over all parameters, or ``local``, by the norm of each tensor.
        rule: ``paper``; or ``published``, in which the largest is that of the averages before the correction, and the norm is
            that of each stretch along the last axis: a row of a dense weight, a row of a kernel, a whole bias.
        correction: What the averages were divided by, 1 - decay^t, in (0, 1]; for ``published``.
    """
    if scaling == "global":
        largest = torch.stack([utility.amax() for utility in utilities]).amax()
        largest = largest * correction if rule == "published" else largest
        divisor = torch.where(largest == 0, 1.0, largest)  # without any gradient all gates are 1/2
        return [torch.sigmoid(utility / divisor) for utility in utilities]
    if rule == "published":
        return [torch.sigmoid(torch.nn.functional.normalize(utility, dim=-1)) for utility in utilities]
    return [torch.sigmoid(utility / (utility.norm() + 1e-8)) for utility in utilities]


@intervention("upgd")
@dataclass
class UPGD(Intervention):
    """Protects useful weights from the step and perturbs the others (utility-based perturbed gradient descent).

    Paper: Elsayed & Mahmood 2024, "Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning", algorithm 1.
    Equation: U <- b U - (1 - b) g w, corrected for its start at 0; s = sigmoid(U / max U over all weights); the optimizer then
    receives (g + x)(1 - s) instead of g, x normal with ``noise``. With optimizer=sgd that is the paper's first-order method, and
    its weight decay is intervention=[upgd,l2] with interventions.l2.mode=decoupled and interventions.l2.include=all, except that
    the paper does not shrink the step itself.
    Published code: ``rule: published``. It divides the corrected utility by the largest one before the correction, so that the
    argument of the sigmoid is 1 / (1 - b^t) times the paper's: 1,000 times at the first update for b = 0.999, 10.5 times at the
    100th, twice at the 700th; early gates are therefore 0 or 1 rather than between. ``local`` divides by norms along the last
    axis there, not by that of the tensor. The paper's figures come from that code. Its README's form takes steps twice as long.
    Deviations: the largest utility may be negative, and the order of the gates is reversed then, as in the code; where it is 0,
    gates are 1/2. Without ``protects`` only the noise is gated: g + x (1 - s).
    State: an average for every weight. Optimizer: not replaced; with Adam the gated gradient enters its moments, which the paper
    does not do.
    Does not work with: methods that change gradients, if they come after it in the config: they are not gated.
    """

    utility_decay: float = setting(0.999, "b.", low=0, below=1)
    noise: float = setting(0.001, "Standard deviation of the perturbation.", low=0)
    scaling: str = setting("global", "``global`` or ``local``, see ``gates``.", choices=SCALINGS)
    rule: str = setting("paper", "``paper`` or ``published``, see above.", choices=RULES)
    protects: bool = setting(True, "Whether the gradient is gated as well as the noise.")

    no_effect: ClassVar = {"noise": 0.0, "protects": False}

    def attach(self, u: Update) -> None:
        """Starts every average at 0."""
        for name, parameter in u.network.named_parameters():
            self.state[name] = torch.zeros_like(parameter, requires_grad=False)
        self.state[_STEP] = 0

    @torch.no_grad()
    def after_backward(self, u: Update) -> Logs:
        """Gates the gradient, and adds the noise."""
        self.state[_STEP] += 1
        trained = [(name, p) for name, p in u.network.named_parameters() if p.grad is not None]
        gradients = [p.grad for _, p in trained if p.grad is not None]
        averages = [self.state[name] for name, _ in trained]
        torch._foreach_mul_(averages, self.utility_decay)
        torch._foreach_addcmul_(averages, gradients, [p for _, p in trained], -(1 - self.utility_decay))
        if self.noise == 0 and not self.protects:
            return {}
        correction = 1 - self.utility_decay ** self.state[_STEP]
        protected = gates(torch._foreach_div(averages, correction), self.scaling, self.rule, correction)
        for gradient, gate in zip(gradients, protected, strict=True):
            noise = torch.empty_like(gradient).normal_(0.0, 1.0, generator=u.generator) * self.noise
            gradient.copy_((gradient + noise) * (1 - gate) if self.protects else gradient + noise * (1 - gate))
        return {"protection": torch.stack([gate.mean() for gate in protected]).mean()}
