"""From a study to its runs: the words of each, its folder, and what distinguishes it from every other run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plasticity.settings.plugins import load_plugins
from plasticity.training.config.command_line import Composer, checked_overrides
from plasticity.training.config.settings import Plan, plan_from
from plasticity.training.config.words import parse_overrides, plugin_places, quoted
from plasticity.training.saving.identity import identity
from plasticity.training.saving.provenance import plugin_hashes
from plasticity.training.studies.specification import StudySettings

RUNS: Final = "runs"


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        place: Its folder within the study's, ``runs/<condition>/<method>/seed_<s>``.
        condition: Name.
        method: Name.
        seed: Of the run.
        words: What it is composed from, ``method=`` among them.
        spelled: The same with the words of the method in place of its name, for Hydra.
        steps: How far it goes.
        identity: SHA-256 of its settings and of the files of its plugins; "" for a branch whose run has not reached its moment.
        origin: Where a branch starts; None for a run from the start.
    """

    place: str
    condition: str
    method: str
    seed: int
    words: tuple[str, ...]
    spelled: tuple[str, ...]
    steps: int
    identity: str
    origin: "Origin | None" = None

    @property
    def label(self) -> str:
        """Its name in messages."""
        return self.place.removeprefix(f"{RUNS}/")


@dataclass(frozen=True)
class Origin:
    """Where a branch of a study starts, and what it is for.

    Attributes:
        parent: Place of the run that it starts from.
        moment: The step that the study names; the checkpoint is the first one at it or after it.
        remedy: Name.
        repeat: Number.
    """

    parent: str
    moment: int
    remedy: str
    repeat: int


@dataclass(frozen=True)
class Group:
    """The runs of one method in one condition, which differ only in the seed; for branches, those of one moment and one remedy.

    Attributes:
        cells: One for each seed, or for each seed and repeat.
        plan: Of the first of them.
    """

    cells: tuple[Cell, ...]
    plan: Plan


class Words:
    """Makes runs from words, as the command line does; every error names the place of the wrong word.

    Args:
        study: Whose runs they are.
        composer: Where YAML files are found.
        extra: Words that every run gets and that are not part of its identity, such as ``device=cuda``.
        base: Folder of the study's file, in which its plugins are looked for first.
    """

    def __init__(self, study: StudySettings, composer: Composer, extra: Sequence[str], base: Path) -> None:
        self._study, self.composer, self._extra, self._base = study, composer, list(extra), base
        said = self._said()
        self._check_each(said)
        load_plugins([place for words in said.values() for place in plugin_places(self._located(words))])
        self._choices = composer.choices()

    def _said(self) -> dict[str, list[str]]:
        """Returns all words of the study's file by their place in it."""
        study, branch = self._study, self._study.branch
        places = {"common": study.common}
        places |= {f"conditions.{name}": words for name, words in study.conditions.items()}
        places |= {f"methods.{name}": words for name, words in study.methods.items()}
        if branch is not None:
            places["branch.common"] = branch.common
            places |= {f"branch.remedies.{name}": words for name, words in branch.remedies.items()}
        return places

    def _check_each(self, said: Mapping[str, Sequence[str]]) -> None:
        for place, words in said.items():
            try:
                overrides = parse_overrides(words)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            for override in overrides:
                if override.is_sweep_override():
                    raise ValueError(
                        f"{place}: {override.input_line} names several runs; write a condition or a method for each of them"
                    )

    def group(
        self, condition: str, method: str, seeds: Sequence[int], folder: str, own: Sequence[str], steps: int | None
    ) -> Group:
        """Returns the runs of a method in a condition.

        Args:
            condition: Name.
            method: Name.
            seeds: Of the runs.
            folder: Within the study's; the runs get ``seed_<s>`` in it.
            own: Words that come after those of the method.
            steps: None for those that the words set.

        Raises:
            ValueError: If the words do not fit together.
        """
        study = self._study
        said = [*study.common, *study.conditions[condition], *study.methods[method], *own]
        said += [] if steps is None else [f"steps={steps}"]
        words = self.completed(said)
        try:
            self.check(words)
            first = self._planned([*words, f"seed={seeds[0]}"])
        except ValueError as error:
            raise ValueError(f"{condition}/{method}: {error}") from error
        hashes = plugin_hashes(first.run.plugins)
        cells = []
        for seed in seeds:
            each = [*words, f"seed={seed}"]
            refers = any("${" in word for word in words)  # the reference may be to the seed
            config = self._planned(each).config if refers and seed != seeds[0] else {**first.config, "seed": seed}
            place = f"{folder}/seed_{seed}"
            spelled = tuple(self.composer.spelled_out(each))
            cells.append(Cell(place, condition, method, seed, tuple(each), spelled, first.run.steps, identity(config, hashes)))
        return Group(tuple(cells), first)

    def completed(self, said: Sequence[str]) -> list[str]:
        """Returns words with only the last one of each setting, absolute places of plugins, and the words that every run gets."""
        return self._located([*later_wins(said), *self._extra])

    def check(self, words: Sequence[str]) -> None:
        """Raises ValueError, in one line, for a word that means nothing."""
        checked_overrides(words, self._choices)

    def _planned(self, words: Sequence[str]) -> Plan:
        return plan_from(self.composer.compose(words, self._choices))

    def _located(self, words: Sequence[str]) -> list[str]:
        return [self._absolute(word) if word.startswith("plugins=") else word for word in words]

    def _absolute(self, word: str) -> str:
        """Returns ``plugins=`` with absolute paths: from the folder of the study's file, otherwise from the working folder."""
        places = []
        for place in plugin_places([word]):
            path = Path(place).expanduser()
            near = self._base / path
            places.append(str((near if near.is_file() else path).absolute()) if place.endswith(".py") else place)
        return f"plugins=[{','.join(map(quoted, places))}]"


def groups_of(study: StudySettings, words: Words, chosen: Mapping[tuple[str, str], Sequence[str]]) -> list[Group]:
    """Returns the runs that are reported.

    Args:
        study: The study.
        words: Makes runs from its words.
        chosen: Words that the tuning has found, by condition and method.

    Raises:
        ValueError: If words do not fit together.
    """
    kept = [] if study.branch is None else [f"checkpoint.at_steps=[{','.join(map(str, study.branch.at))}]"]
    return [
        words.group(
            condition,
            method,
            study.seeds,
            f"{RUNS}/{condition}/{method}",
            [*chosen.get((condition, method), ()), *kept],
            study.steps,
        )
        for condition, method in study.pairs
    ]


def by_seed(groups: Sequence[Group]) -> list[Cell]:
    """Returns the runs in the order in which they are started: every method and condition with one seed, then with the next."""
    longest = max((len(group.cells) for group in groups), default=0)
    return [group.cells[number] for number in range(longest) for group in groups if number < len(group.cells)]


def later_wins(words: Sequence[str]) -> list[str]:
    """Returns the words with the last one of each setting in the place of the first."""
    keys = [override.key_or_group for override in parse_overrides(words)]
    return list(dict(zip(keys, words, strict=True)).values())
