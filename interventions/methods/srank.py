"""Penalty on the spread of the features' singular values."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Update
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.features import as_matrix, require_features
from plasticity.settings.fields import setting


def singular_spread(features: Tensor) -> Tensor:
    """Returns the largest less the smallest squared singular value of a feature matrix.

    They are eigenvalues of the smaller Gram matrix, whose gradient is bounded where values coincide or vanish.

    Args:
        features: (B, d) float32, B at least 2; there are min(B, d) singular values.
    """
    gram = features @ features.T if features.shape[0] <= features.shape[1] else features.T @ features
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues[-1] - eigenvalues[0]


@intervention("srank")
@dataclass
class Srank(Intervention):
    """Penalises a large gap between the greatest and the least singular value of the features.

    Paper: Kumar et al. 2021, "Implicit Under-Parameterization Inhibits Data-Efficient Deep Reinforcement Learning", section 5;
    coefficient 1e-3; a published port uses 5e-4.
    Equation: loss + coefficient * (sigma_max(Phi)^2 - sigma_min(Phi)^2), Phi the batch's (B, d) matrix of last hidden
    activations, not centred and not divided by B; summed over such layers where there are several.
    Deviations: with B < d the smallest is the least of the B singular values, as in that port.
    State: none. Optimizer: untouched. The activations are those of the training forward; the cost is one product for the Gram
    matrix and its eigenvalues, for which a GPU waits.
    Does not work with: ``compile``; batches of one example, which have one singular value (refused).
    """

    coefficient: float = setting(1e-3, "Strength.", low=0)

    needs_graph: ClassVar = True
    no_effect: ClassVar = {"coefficient": 0.0}

    def attach(self, u: Update) -> None:
        """Chooses the layers."""
        self._names = require_features(self.name, u)

    def loss(self, u: Update) -> Tensor | None:
        """Returns the penalty.

        Raises:
            ValueError: If the batch has fewer than two examples.
        """
        if self.coefficient == 0:
            return None
        matrices = [as_matrix(u.taps.live[name]) for name in self._names]
        if matrices[0].shape[0] < 2:
            raise ValueError("intervention srank compares singular values of a batch, and this one has 1 example; use at least 2")
        return torch.stack([singular_spread(matrix) for matrix in matrices]).sum() * self.coefficient
