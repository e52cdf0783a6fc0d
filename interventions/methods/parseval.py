"""Parseval regularisation: rows of the weights that stay orthogonal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Update
from plasticity.interventions.registry import intervention
from plasticity.networks.network import Network
from plasticity.networks.spec import NetworkSpec
from plasticity.settings.fields import setting


def hidden_weights(network: Network) -> dict[str, torch.nn.Parameter]:
    """Returns the weights of all linear maps but those onto the outputs."""
    outputs = set(network.blocks[-1].parameters)
    return {name: value for name, value in network.weights().items() if name not in outputs}


def parseval_penalty(weight: Tensor, scale: float, groups: int = 1, normalise_rows: bool = False) -> Tensor:
    """Returns the sum over groups of ||W_g W_g^T - scale * I||^2, W_g the rows of a group.

    Args:
        weight: (out, in) or (out, in, height, width); a row holds all that leads to one unit.
        scale: s.
        groups: Number of groups of neighbouring rows; it divides ``out``.
        normalise_rows: Whether rows are divided by their norms first; a row of zeros stays one.
    """
    rows = _grouped(weight, groups)
    if normalise_rows:
        rows = rows * _inverse_norms(rows)
    gram = rows @ rows.mT
    return (gram - scale * torch.eye(gram.shape[-1], device=gram.device)).square().sum()


def parseval_gradient(weight: Tensor, scale: float, groups: int = 1, normalise_rows: bool = False) -> Tensor:
    """Returns the gradient of ``parseval_penalty`` for ``weight``, from two matrix products: 4 (V V^T - scale * I) V, V the rows.

    With normalised rows the part along each row is taken out.
    """
    rows = _grouped(weight, groups)
    inverse = _inverse_norms(rows) if normalise_rows else None
    unit = rows if inverse is None else rows * inverse
    left, right = _factors(unit, scale)
    gradient = 4 * (left @ right)
    if inverse is not None:
        gradient = (gradient - (gradient * unit).sum(-1, keepdim=True) * unit) * inverse
    return gradient.reshape(weight.shape)


def add_parseval_gradient(gradient: Tensor, weight: Tensor, strength: float, scale: float, groups: int = 1) -> None:
    """Adds ``strength`` times ``parseval_gradient``, without normalised rows, in place; only the matrix products take time.

    Args:
        gradient: In the shape of ``weight``.
        weight: See ``parseval_penalty``.
        strength: Any.
        scale: s.
        groups: See ``parseval_penalty``.
    """
    if not gradient.is_contiguous():
        gradient.add_(parseval_gradient(weight, scale, groups), alpha=strength)
        return
    left, right = _factors(_grouped(weight, groups), scale)
    if groups == 1:  # a batch of one product takes longer
        gradient.view(gradient.shape[0], -1).addmm_(left[0], right[0], alpha=4 * strength)
    else:
        _grouped(gradient, groups).baddbmm_(left, right, alpha=4 * strength)


@intervention("parseval")
@dataclass
class Parseval(Intervention):
    """Pulls the rows of every hidden weight towards an orthogonal set of a given length.

    Paper: Chung et al. 2024, "Parseval Regularization for Continual Reinforcement Learning", equation 1: coefficients 1e-3 to
    1e-4 at width 64, s the squared gain of the orthogonal initialiser, 2 for relu.
    Equation: loss + coefficient * (64 / width)^2 * sum over hidden layers of ||W W^T - s I||^2, added as its gradient, width the
    rows of W; every layer but the output.
    Deviations: none of the rule. For a tall W, for which W W^T = s I cannot hold, ||W^T W - s I||^2 differs by the constant
    s^2 (rows - columns) alone, so its gradient is the same and there is no choice to make. Use an orthogonal
    ``network.initialiser``; the paper's learned scale of the inputs is not implemented. Its normalised form divides a row of
    zeros by 0, here that row has no gradient.
    ``diagonal`` adds the paper's diagonal layer d * z + e behind each regularised map, d at 1 and e at 0, which gives back the
    lengths of rows; ahead of any normalisation and, which the paper does not state, not behind the output, which is not
    regularised. d and e belong to a unit, return to 1 and 0 when it is reset, and count as gain and offset of a normalisation for
    methods that leave these alone.
    State: none. Optimizer: untouched. Cost: two matrix products for each layer.
    Does not work with: with ``diagonal``, torsos in which maps other than those of hidden layers are regularised: residual
    streams of dense layers, transformers (refused).
    """

    coefficient: float = setting(1e-3, "Strength.", low=0)
    scale: float = setting(2.0, "s, the squared length that rows are pulled to; 1 with ``normalise_rows``.", low=0)
    groups: int = setting(1, "Groups of neighbouring rows; only rows of the same group are made orthogonal.", low=1)
    normalise_rows: bool = setting(False, "Whether only the angles between rows count, not their lengths.")
    diagonal: bool = setting(False, "Whether each regularised map is followed by a factor and an offset for each unit.")
    reference_width: int = setting(64, "Width at which the coefficient holds as it is; 0 for no dependence on the width.", low=0)

    no_effect: ClassVar = {"coefficient": 0.0}

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Adds the diagonal layers if ``diagonal`` is set."""
        return replace(spec, diagonal=True) if self.diagonal else spec

    def attach(self, u: Update) -> None:
        """Chooses the weights.

        Raises:
            ValueError: If there is no hidden layer, the groups do not divide a layer, or a map has no diagonal layer.
        """
        self._weights = hidden_weights(u.network)
        if not self._weights:
            raise ValueError(
                "intervention parseval acts on hidden layers, and this network has none; give network.widths or a torso"
            )
        for name, weight in self._weights.items():
            if weight.shape[0] % self.groups:
                raise ValueError(f"parseval.groups={self.groups} must divide the {weight.shape[0]} units of {name}")
            if self.diagonal and name.replace(".linear.weight", ".diagonal.weight") not in u.network.norm_parameters:
                raise ValueError(
                    f"parseval.diagonal=true needs a diagonal layer behind every regularised map, and {name} of "
                    f"network.torso={u.network.spec.torso} has none; choose mlp, conv, nature_cnn or resnet18"
                )

    @torch.no_grad()
    def edit_gradients(
        self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], running: Sequence[Tensor]
    ) -> None:
        """Adds the penalty's gradient."""
        if self.coefficient > 0:
            for name in self._weights:
                if name in gradients:
                    weight, gradient = parameters[name], gradients[name]
                    strength = self._strength(weight)
                    if self.normalise_rows:
                        gradient.add_(parseval_gradient(weight, self.scale, self.groups, True), alpha=strength)
                    else:
                        add_parseval_gradient(gradient, weight, strength, self.scale, self.groups)

    def _strength(self, weight: Tensor) -> float:
        width_factor = (self.reference_width / weight.shape[0]) ** 2 if self.reference_width else 1.0
        return self.coefficient * width_factor


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """Returns the rows as (groups, out / groups, in)."""
    return weight.flatten(1).view(groups, -1, weight[0].numel())


def _factors(rows: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Returns two tensors whose matrix product is V V^T V - scale * V, by the smaller of the two Gram matrices of V, the rows."""
    tall = rows.shape[-2] > rows.shape[-1]
    gram = rows.mT @ rows if tall else rows @ rows.mT
    gram.diagonal(dim1=-2, dim2=-1).sub_(scale)
    return (rows, gram) if tall else (gram, rows)


def _inverse_norms(rows: Tensor) -> Tensor:
    """Returns 1 / ||row||, and 0 for a row of zeros, (groups, rows, 1)."""
    squares = rows.square().sum(-1, keepdim=True)
    return torch.where(squares > 0, squares, 1.0).rsqrt() * (squares > 0)
