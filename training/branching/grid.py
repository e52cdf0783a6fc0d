"""One branch of several, in the process in which a launcher starts it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from plasticity.training.branching.planning import branch_plan
from plasticity.training.config.choices import chosen_from
from plasticity.training.config.command_line import Composer
from plasticity.training.config.config_store import CHOICES
from plasticity.training.config.grid import GridRun, sharing_the_machine

if TYPE_CHECKING:
    from plasticity.training.run import Outcome


@dataclass(frozen=True)
class BranchRun(GridRun):
    """As ``GridRun``; each run is composed from its parent's checkpoint, and Hydra's config is not used."""

    def run(self, config: DictConfig, words: Sequence[str], told: Sequence[str], folder: Path) -> "Outcome":
        """Plans and runs a branch."""
        from plasticity.training.run import run  # imported here, because the grid's own process may not need it

        plan, origin = branch_plan(words, Composer(own=self.own))
        plan = sharing_the_machine(replace(plan, config={**plan.config, "run_dir": str(folder)}))
        return run(plan, folder, told, settings=chosen_from(self.own, plan.config[CHOICES]), origin=origin)
