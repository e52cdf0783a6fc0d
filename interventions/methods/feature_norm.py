"""Penalty on the norm of the features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Update
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.features import as_matrix, require_features
from plasticity.settings.fields import setting


def feature_norm_penalty(activations: Sequence[Tensor], coefficient: float) -> Tensor:
    """Returns coefficient * sum over layers of the mean over the batch of ||h||^2.

    Args:
        activations: One (B, ...) for each layer; units, channels and positions are summed over.
        coefficient: At least 0.
    """
    return torch.stack([as_matrix(h).square().sum() / h.shape[0] for h in activations]).sum() * coefficient


@intervention("feature_norm")
@dataclass
class FeatureNorm(Intervention):
    """Penalises the squared norm of the features.

    Paper: one of the remedies compared in "Towards perpetually trainable neural networks", where it is weaker than layer
    normalisation.
    Equation: loss + coefficient * mean over x of ||h(x)||^2, summed over the layers.
    Deviations: the paper gives no coefficient; this default is a small one, to be tuned.
    State: none. Optimizer: untouched. The activations are those of the training forward, so there is no second pass; those of a
    convolution are taken before the pooling and summed over positions.
    Does not work with: networks without hidden layers (refused).
    """

    coefficient: float = setting(1e-3, "Strength.", low=0)
    layers: str = setting(
        "last", "``last`` (those that the head reads: both streams of a dueling head) or ``all``.", choices=("last", "all")
    )

    needs_graph: ClassVar = True
    no_effect: ClassVar = {"coefficient": 0.0}

    def attach(self, u: Update) -> None:
        """Chooses the layers."""
        self._names = require_features(self.name, u)

    def term(self, loss: Tensor, parameters: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> Tensor | None:
        """Returns the penalty."""
        if self.coefficient == 0:
            return None
        names = self._names if self.layers == "last" else list(live)
        return feature_norm_penalty([live[name] for name in names], self.coefficient)
