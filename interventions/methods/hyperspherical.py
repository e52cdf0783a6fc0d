"""Rows of weights held on their spheres."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update, is_multiple
from plasticity.interventions.methods.weight_projection import projected_names
from plasticity.interventions.reference import REFERENCE_DOC, REFERENCES, START, initial_values
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import setting


def row_lengths(weight: Tensor) -> Tensor:
    """Returns the length of all that feeds each unit, (out, 1, ...), broadcastable to the weight (out, ...)."""
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)
    return lengths


@torch.no_grad()
def project_rows(weight: Tensor, lengths: Tensor) -> None:
    """Scales every row in place to its length; a row of zeros stays one, and one whose length is 0 stays as it is.

    Args:
        weight: (out, ...).
        lengths: (out, 1, ...).
    """
    present = row_lengths(weight)
    weight.mul_(torch.where((present > 0) & (lengths > 0), lengths / present, 1.0))


@intervention("hyperspherical")
@dataclass
class Hyperspherical(Intervention):
    """Holds all that feeds a unit at the length it started with, 1 in SimbaV2's torso, by a projection after every update.

    Paper: Lee et al. 2025, "Hyperspherical Normalization for Scalable Deep Reinforcement Learning" (SimbaV2), section 4. The
    other half of the paper is a torso, ``network=simba_v2``, whose features have length 1 and whose rows start with it.
    Equation: W_i <- W_i / ||W_i|| for every row i, the weights into one unit, after each step of the optimizer.
    Deviations: in other networks, where rows start with other lengths, they keep these; so does the head, which the paper holds
    at 1 (``network.initialiser=orthogonal`` gives it rows of length 1 unless an agent starts it smaller). Normalised
    observations, categorical critics, rewards scaled by the deviation of returns and the falling learning rate belong to the
    paper's agent, not to this method. State: the initial lengths. Optimizer: its moments are not projected, as in the paper.
    Does not work with: weight_projection and normalize_and_project, which hold whole weights at a length (refused). Other methods
    that write weights are followed by a projection, in the next update if they come later in the config. Not
    function-preserving.
    """

    every_updates: int = setting(1, "Updates between two projections; 0 for never.", low=0)
    output: bool = setting(True, "Whether the head takes part, which bounds values unless they are categorical.")
    reference: str = setting(START, REFERENCE_DOC, choices=REFERENCES)

    no_effect: ClassVar = {"every_updates": 0}
    conflicts: ClassVar = {
        "weight_projection": "hyperspherical holds the length of every row",
        "normalize_and_project": "hyperspherical holds the length of every row",
    }

    def attach(self, u: Update) -> None:
        """Notes the lengths that rows start with."""
        initial = initial_values(u, self.reference)
        for name in projected_names(u.network, self.output):
            self.state[name] = row_lengths(initial[name].detach())
        self._pairs = [(u.network.tensor(name).detach(), lengths) for name, lengths in self.state.items()]

    def after_step(self, u: Update) -> Logs:
        """Projects if it is due."""
        if is_multiple(u.step, self.every_updates):
            for weight, lengths in self._pairs:
                project_rows(weight, lengths)
        return {}
