"""DR3: keeping the features of successive states apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Update
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.features import as_matrix, features_of, require_features
from plasticity.settings.fields import setting

_VALUES = ("q", "categorical", "value")


def coadaptation(features: Sequence[Tensor], following: Sequence[Tensor], absolute: bool = False) -> Tensor:
    """Returns the mean over the batch of h(s) . h(s'), summed over layers.

    Args:
        features: h(s) of each layer, (B, d).
        following: h(s') of each layer, (B, d).
        absolute: Whether |h(s) . h(s')| is averaged.
    """
    products = torch.stack([(here * there).sum(1) for here, there in zip(features, following, strict=True)])
    return (products.abs() if absolute else products).mean(1).sum()


@intervention("dr3")
@dataclass
class DR3(Intervention):
    """Penalises the dot product of the features of a state and of the one that it bootstraps from.

    Paper: Kumar et al. 2022, "DR3: Value-Based Deep Reinforcement Learning Requires Explicit Regularization", equation 4.
    Equation: loss + coefficient * mean of h(s) . h(s'), h the last hidden layer, both with a gradient.
    Deviations: in a network with one output per action the features do not depend on the action. Terminal transitions count
    like others. Published code (Dopamine) averages |h(s) . h(s')| with coefficient 0.1: ``absolute: true``, which is the same for
    activations that are not negative; the signed term of others has no lower bound.
    State: none. Optimizer: untouched. Cost: one forward on s', in evaluation mode, so that no running statistics move; the
    features of s come from the training forward, those of a convolution before the pooling.
    Does not work with: ``compile``; parts whose batches have no following observations: it is for agent=dqn (others are refused).
    """

    coefficient: float = setting(0.001, "Strength; 0.001 to 0.03 in the paper.", low=0)
    absolute: bool = setting(False, "Whether the absolute value of each product counts.")
    gradient: str = setting("both", "``both``, or ``current`` to hold the features of s' fixed.", choices=("both", "current"))

    needs_graph: ClassVar = True
    no_effect: ClassVar = {"coefficient": 0.0}

    def attach(self, u: Update) -> None:
        """Chooses the layers.

        Raises:
            ValueError: If the network's outputs are not values.
        """
        kind = u.network.head_spec.kind
        if kind not in _VALUES:
            raise ValueError(f"intervention dr3 needs values that bootstrap, and this part's outputs are {kind}; use agent=dqn")
        self._names = require_features(self.name, u)

    def loss(self, u: Update) -> Tensor | None:
        """Returns the penalty.

        Raises:
            ValueError: If the batch has no following observations.
        """
        next_inputs = getattr(u.batch, "next_inputs", None)
        if next_inputs is None:
            raise ValueError("intervention dr3 needs the observations that follow, which this part's batches lack; use agent=dqn")
        if self.coefficient == 0:
            return None
        here = [as_matrix(u.taps.live[name]) for name in self._names]
        with torch.set_grad_enabled(self.gradient == "both"):
            there = features_of(u.network, next_inputs, self._names)
        return coadaptation(here, there, self.absolute) * self.coefficient
