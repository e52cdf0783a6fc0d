"""InFeR: features that can still predict what the initial ones could."""

from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.reference import REFERENCE_DOC, REFERENCES, START, initial_values
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.features import as_matrix, features_of, frozen_copy, require_features
from plasticity.optimizers.adam_step import adam_step
from plasticity.settings.fields import setting

_MOMENTS: Final = ("first_moment", "second_moment")


class Heads(NamedTuple):
    """Linear heads on one layer's features: weight (k, d) and bias (k,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Maps (B, d) to (B, k)."""
        return functional.linear(features, self.weight, self.bias)


def infer_errors(features: Tensor, heads: Heads, initial_features: Tensor, initial_heads: Heads, scale: float) -> Tensor:
    """Returns g_j(h(x)) - scale * g0_j(h0(x)), (B, k)."""
    return heads(features) - scale * initial_heads(initial_features)


def head_gradients(errors: Tensor, features: Tensor) -> Heads:
    """Returns the gradient of the mean over the batch of the sum over heads of squared errors, for weight and bias."""
    twice = errors * (2 / errors.shape[0])
    return Heads(twice.T @ features, twice.sum(0))


@intervention("infer")
@dataclass
class InFeR(Intervention):
    """Regresses linear heads on the features towards those of the initial network, scaled up (initial feature regularisation).

    Paper: Lyle et al. 2022, "Understanding and Preventing Capacity Loss in Reinforcement Learning", equation 3: k = 10,
    scale 100, coefficient 0.1. A published port has scale 175, coefficient 0.05 and the mean over heads.
    Equation: loss + coefficient * mean over x of sum over j of (g_j(h(x)) - scale * g0_j(h0(x)))^2 with h the last hidden layer,
    h0 the same at initialisation and g0_j the heads g_j at initialisation, which are drawn as PyTorch's linear maps are.
    Deviations: the heads are not parameters of the network, so that the part's optimizer holds only the network's; they are
    trained by a separate Adam with the part's present step size, and its betas and epsilon where it has them, on the exact
    gradient of the term, which is not clipped. Layers that a head reads side by side (dueling streams, twin critics) have k heads
    each.
    State: the heads, their moments, their initial values, and a copy of the initial network, which runs in evaluation mode.
    Optimizer: untouched. Cost: one forward of the copy without a graph.
    Does not work with: ``compile``; networks without hidden layers (refused).
    """

    coefficient: float = setting(0.1, "Strength.", low=0)
    heads: int = setting(10, "k.", low=1)
    scale: float = setting(100.0, "beta, factor of the targets.", low=0)
    over_heads: str = setting("sum", "``sum`` or ``mean`` of the squared errors.", choices=("sum", "mean"))
    reference: str = setting(START, REFERENCE_DOC, choices=REFERENCES)

    needs_graph: ClassVar = True
    no_effect: ClassVar = {"coefficient": 0.0}

    def attach(self, u: Update) -> None:
        """Copies the network and draws the heads."""
        self._names = require_features(self.name, u)
        self._initial = frozen_copy(u.network)
        self._initial.load_state_dict(initial_values(u, self.reference))
        for key, value in self._initial.state_dict().items():
            self.state[f"network/{key}"] = value
        example = torch.zeros(1, *u.network.input_shape, dtype=u.network.input_dtype, device=u.generator.device)
        with torch.no_grad():
            widths = [features.shape[1] for features in features_of(self._initial, example, self._names)]
        for name, width in zip(self._names, widths, strict=True):
            self._draw(name, width, u.generator)
        self._trained = [self.state[f"heads/{name}/{key}"] for name in self._names for key in Heads._fields]
        first, second = (
            [self.state[f"{moment}/{name}/{key}"] for name in self._names for key in Heads._fields] for moment in _MOMENTS
        )
        self._moments = (first, second)

    def loss(self, u: Update) -> Tensor | None:
        """Returns the term, and keeps its gradient with respect to the heads for ``after_step``."""
        if self.coefficient == 0:
            return None
        strength = self.coefficient / (self.heads if self.over_heads == "mean" else 1)
        with torch.no_grad():
            assert u.batch is not None
            initial = features_of(self._initial, u.batch.inputs, self._names)
        terms, self._gradients = [], []
        for name, before in zip(self._names, initial, strict=True):
            features = as_matrix(u.taps.live[name])
            errors = infer_errors(features, self._heads(name), before, self._heads(name, "initial_heads"), self.scale)
            terms.append(errors.square().sum(1).mean())
            self._gradients += [gradient * strength for gradient in head_gradients(errors.detach(), features.detach())]
        return torch.stack(terms).sum() * strength

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Trains the heads."""
        if self.coefficient > 0:
            group = u.optimizer.param_groups[0]
            betas, epsilon = group.get("betas", (0.9, 0.999)), group.get("eps", 1e-8)
            adam_step(self._trained, self._gradients, self._moments, u.step, group["lr"], betas, epsilon)
        return {}

    def _draw(self, name: str, width: int, generator: torch.Generator) -> None:
        bound = width**-0.5
        for key, shape in (("weight", (self.heads, width)), ("bias", (self.heads,))):
            drawn = torch.empty(shape, device=generator.device).uniform_(-bound, bound, generator=generator)
            self.state[f"heads/{name}/{key}"], self.state[f"initial_heads/{name}/{key}"] = drawn, drawn.clone()
            for moment in _MOMENTS:
                self.state[f"{moment}/{name}/{key}"] = torch.zeros_like(drawn)

    def _heads(self, name: str, which: str = "heads") -> Heads:
        return Heads(self.state[f"{which}/{name}/weight"], self.state[f"{which}/{name}/bias"])
