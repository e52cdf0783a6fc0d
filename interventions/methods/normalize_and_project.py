"""Normalize-and-project: layer normalisation everywhere, and weights held at their initial norm."""

from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch

from plasticity.interventions.base import Intervention, Logs, Update, is_multiple
from plasticity.interventions.methods.weight_projection import project_norms, projected_names
from plasticity.interventions.reference import REFERENCE_DOC, REFERENCES, START, initial_values
from plasticity.interventions.registry import intervention
from plasticity.networks.network import Network
from plasticity.networks.spec import NetworkSpec
from plasticity.settings.fields import setting

GAINS: Final = ("free", "project", "fixed")


@intervention("normalize_and_project")
@dataclass
class NormalizeAndProject(Intervention):
    """Normalises before every activation and holds weights at their initial norm (NaP): the learning rate keeps its meaning.

    Paper: Lyle et al. 2024, "Normalization and effective learning rates in reinforcement learning", section 4.
    Equation: a layer normalisation in front of every activation; after each update W <- W * ||W_0||_F / ||W||_F. In front of a
    normalisation the scale of a weight has no effect, so the projection leaves the network's function as it is and undoes the
    fall of the effective learning rate that growing weights cause; the schedule is then the user's to choose.
    Gains and offsets: ``free``; ``project``, the two of a layer together onto their initial norm, the root of the number of
    units; or ``fixed``, none at all.
    Deviations: biases of the linear maps stay, which the paper folds into the offsets. The output layer, whose scale matters, is
    not projected unless ``output`` is set. A network that has a layer normalisation already keeps it.
    State: the initial norms. Optimizer: its moments are kept.
    Does not work with: the same as layer_norm; weight_projection, which it contains (refused).
    """

    every_updates: int = setting(
        1, "Updates between two projections; 0 for never, so that only the layer normalisation remains.", low=0
    )
    gains: str = setting("free", "``free``, ``project`` or ``fixed``.", choices=GAINS)
    output: bool = setting(False, "Whether the output layer's weight is projected too.")
    reference: str = setting(START, REFERENCE_DOC, choices=REFERENCES)

    conflicts: ClassVar = {
        "weight_projection": "normalize_and_project projects the weights itself",
        "layer_norm": "normalize_and_project adds the layer normalisation itself",
    }

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Puts a layer normalisation in front of any other, unless there is one."""
        if any(name in ("layer", "layer_non_affine") for name in spec.normalisation):
            return spec
        return replace(spec, normalisation=["layer_non_affine" if self.gains == "fixed" else "layer", *spec.normalisation])

    def attach(self, u: Update) -> None:
        """Notes the norms that the weights start with, and which gains and offsets belong together."""
        initial = initial_values(u, self.reference)
        for name in projected_names(u.network, self.output):
            self.state[name] = initial[name].detach().norm()
        self._weights = list(self.state)
        self._gains = gains_and_offsets(u.network) if self.gains == "project" else []

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Projects if it is due."""
        if not is_multiple(u.step, self.every_updates):
            return {}
        project_norms([u.network.tensor(name) for name in self._weights], [self.state[name] for name in self._weights])
        for gain, offset in self._gains:
            values = [u.network.tensor(gain), u.network.tensor(offset)]
            norm = torch.stack(torch._foreach_norm(values)).norm()
            torch._foreach_mul_(values, torch.where(norm > 0, values[0].numel() ** 0.5 / norm, 1.0))
        return {}


def gains_and_offsets(network: Network) -> list[tuple[str, str]]:
    """Returns the names of the gain and the offset of every normalisation layer that has both."""
    gains = [name for name in sorted(network.norm_parameters) if name.endswith(".weight")]
    return [(name, name.removesuffix("weight") + "bias") for name in gains]
