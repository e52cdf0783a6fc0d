"""The branches of a study: runs that continue each of its runs from some of its checkpoints, with each of several remedies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from plasticity.agents.part_origin import PartOrigin
from plasticity.training.assembly import assemble
from plasticity.training.branching.planning import SECTION, plan_onto, point_of
from plasticity.training.branching.point import BranchPoint, find_point
from plasticity.training.branching.starting import emptied_replay, origins
from plasticity.training.config.settings import Plan, plan_from
from plasticity.training.config.words import covering, quoted
from plasticity.training.saving.checkpoint import saved_steps
from plasticity.training.saving.identity import identity
from plasticity.training.saving.provenance import plugin_hashes
from plasticity.training.studies.cells import Cell, Group, Origin, Words, by_seed
from plasticity.training.studies.specification import Branching
from plasticity.training.studies.states import DONE, State

BRANCHES: Final = "branches"


@dataclass
class Branches:
    """The branches of a study.

    Attributes:
        groups: Those whose runs have reached the moment.
        waiting: Those whose runs have not.
        lost: Places of finished runs that have no checkpoint for a moment, with the moment.
    """

    groups: list[Group] = field(default_factory=list)
    waiting: list[Cell] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def cells(self) -> list[Cell]:
        """All of them."""
        return [*by_seed(self.groups), *self.waiting]


class BranchMaker:
    """Makes the branches of a study.

    Args:
        branch: The study's settings of them.
        words: Makes runs from its words.
    """

    def __init__(self, branch: Branching, words: Words) -> None:
        self._branch, self._words = branch, words

    def branches_of(self, trunks: Sequence[Group], states: Mapping[str, State], folder: Path) -> Branches:
        """Returns the branches of runs.

        Args:
            trunks: The runs that they start from.
            states: Where each of these stands, by place.
            folder: The study's.

        Raises:
            ValueError: If words do not fit together, or a checkpoint cannot be read.
        """
        found = Branches()
        for trunk in trunks:
            for moment in self._branch.at:
                points: dict[str, BranchPoint] = {}
                for cell in trunk.cells:
                    if states[cell.place].name != DONE:
                        continue
                    step = next((step for step in saved_steps(folder / cell.place) if step >= moment), None)
                    if step is None:
                        found.lost.append(f"{cell.place} (step {moment})")
                    else:
                        points[cell.place] = find_point(folder / cell.place, step)
                for remedy in self._branch.remedies:
                    cells = [(cell, repeat) for cell in trunk.cells for repeat in range(self._branch.repeats)]
                    wanted = [self._cell(cell, moment, remedy, repeat, points.get(cell.place)) for cell, repeat in cells]
                    found.waiting += [cell for cell in wanted if cell.origin is not None and cell.origin.parent not in points]
                    begun = [cell for cell in wanted if cell.origin is not None and cell.origin.parent in points]
                    if begun:
                        found.groups.append(self._group(begun, points))
        return found

    def try_out(self, trunks: Sequence[Group]) -> None:
        """Builds the remedies on this machine's CPU, on a run at its start: what does not fit is refused before any run.

        Raises:
            ValueError: In one line that names the remedy.
        """
        tried: dict[tuple[str, ...], tuple[Group, str]] = {}
        for trunk in trunks:
            for remedy, said in self._branch.remedies.items():
                tried.setdefault((*trunk.cells[0].words, *self._branch.common, *said), (trunk, remedy))
        parents: dict[str, dict[str, PartOrigin]] = {}
        for each in covering(list(tried)):
            trunk, remedy = tried[tuple(each)]
            wanted = self._cell(trunk.cells[0], self._branch.at[0], remedy, 0, None)
            try:
                point, rest = point_of(wanted.words, there=False)
                self._words.check(rest)
                plan = plan_onto(trunk.plan.config, rest, point, self._words.composer)
                place = trunk.cells[0].place
                if place not in parents:
                    parents[place] = _at_start(trunk.plan)
                agent, stream, _ = assemble(_on_cpu(plan), parents[place])
                stream.close()
                emptied_replay(plan, point, agent)  # refuses agents without one
            except ValueError as error:
                raise ValueError(f"{wanted.condition}/{wanted.method}, branch.remedies.{remedy}: {error}") from error

    def _cell(self, trunk: Cell, moment: int, remedy: str, repeat: int, point: BranchPoint | None) -> Cell:
        """Returns a branch, planned as far as possible before its checkpoint is known."""
        branch, step = self._branch, moment if point is None else point.step
        place = f"{BRANCHES}/{trunk.condition}/{trunk.method}/seed_{trunk.seed}/step_{moment}/{remedy}/repeat_{repeat}"
        words = (
            f"{SECTION}.run={trunk.place}",
            f"{SECTION}.step={step}",
            f"{SECTION}.repeat={repeat}",
            f"{SECTION}.measure=[{','.join(branch.measure)}]",
            *self._words.completed([*branch.common, *branch.remedies[remedy]]),
            f"steps={step + branch.steps}",
        )
        origin = Origin(trunk.place, moment, remedy, repeat)
        return Cell(place, trunk.condition, trunk.method, trunk.seed, words, (), step + branch.steps, "", origin)

    def _group(self, cells: Sequence[Cell], points: Mapping[str, BranchPoint]) -> Group:
        """Returns branches of one moment and remedy; they are composed once, because they differ only in seed and origin."""
        first: Plan | None = None
        made, hashes = [], {}
        for cell in cells:
            assert cell.origin is not None
            said, rest = point_of(cell.words, there=False)
            found = points[cell.origin.parent]
            point = replace(said, folder=found.folder, step=found.step, sha256=found.sha256)
            if first is None or any("${" in word for word in rest):  # the reference may be to the seed
                plan = self._planned(cell, point, rest)
            else:
                plan = plan_from({**first.config, "seed": cell.seed, SECTION: point.told()})
            if first is None:
                first, hashes = plan, plugin_hashes(plan.run.plugins)
            made.append(replace(cell, identity=identity(plan.config, hashes)))
        assert first is not None
        return Group(tuple(made), first)

    def _planned(self, cell: Cell, point: BranchPoint, rest: Sequence[str]) -> Plan:
        try:
            return plan_onto(point.config(), rest, point, self._words.composer)
        except ValueError as error:
            raise ValueError(f"{cell.label}: {error}") from error


def absolute(words: Sequence[str], folder: Path) -> list[str]:
    """Returns the words of a branch with the folder of its parent, which they name by its place in the study's folder."""
    name, _, place = words[0].partition("=")
    return [f"{name}={quoted(str(folder / place))}", *words[1:]]


def _at_start(plan: Plan) -> dict[str, PartOrigin]:
    """Returns the parts of a run as it starts."""
    agent, stream, _ = assemble(_on_cpu(plan))
    stream.close()
    return origins({"config": plan.config, "agent": agent.state_dict()})


def _on_cpu(plan: Plan) -> Plan:
    return replace(plan, run=replace(plan.run, device="cpu"))
