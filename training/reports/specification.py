"""What a report shows: the ``report:`` section of a study's file, as settings with ranges and choices.

All of it may be left out; ``plasticity.training.reports.comparison`` then chooses an outcome by what the runs have measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from plasticity.settings.fields import Settings, describe, setting
from plasticity.settings.naming import did_you_mean
from plasticity.training.config.sweeps import sweep_with_scores

REDUCTIONS: Final = ("mean", "last", "min", "max", "area")
CLOCKS: Final = ("step", "task")
KINDS: Final = (
    "curves",
    "final",
    "differences",
    "dose",
    "heatmap",
    "mosaic",
    "matrix",
    "series",
    "scatter",
    "gains",
    "predictors",
)
BANDS: Final = ("auto", "sd", "se", "t")
SPREADS: Final = ("sd", "se", "ci")
_USES: Final[dict[str, tuple[str, ...]]] = {
    "curves": ("values", "by", "window", "bins", "band", "part"),
    "final": ("outcome",),
    "differences": ("outcome",),
    "dose": ("setting", "outcome"),
    "heatmap": ("value", "layers", "group"),
    "mosaic": ("value", "layers", "group"),
    "matrix": ("value", "at", "colours"),
    "series": ("value", "at"),
    "scatter": ("metrics", "at", "outcome"),
    "gains": ("outcome",),
    "predictors": ("metrics", "outcome"),
}
_COMMON: Final = ("id", "kind", "title", "conditions", "methods")
_Made = TypeVar("_Made")


@dataclass
class Normalise(Settings):
    """Two scores that become 0 and 1, such as a random agent's and a person's."""

    section: ClassVar[str] = "report.outcome.normalise"

    low: float = setting(0.0, "The score that becomes 0.")
    high: float = setting(1.0, "The score that becomes 1.")
    scores: str = setting("", "A list of ``list=sweeps`` that has both scores, for the value of its setting in each run.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scores:
            sweep_with_scores(self.scores)
        if self.low == self.high:
            raise ValueError(f"{self.section}: low={self.low:g} and high={self.high:g} must differ")


@dataclass
class Outcome(Settings):
    """The one number of a run."""

    section: ClassVar[str] = "report.outcome"

    value: str = setting("", "Name in ``metrics.csv``, such as ``task/online_accuracy``.")
    part: list[float] = setting(
        [0.0, 1.0],
        "First and last share of the run's steps (for a branch, of its own steps): rows after the first and up to the last; "
        "if the first is 0, step 0 too.",
        low=0.0,
        high=1.0,
    )
    reduce: str = setting(
        "mean", "How the rows become one number; ``area`` is that under the curve, divided by its width.", choices=REDUCTIONS
    )
    by: str = setting("step", "``task`` averages the rows of each task first, so that every task counts once.", choices=CLOCKS)
    better: str = setting("higher", "Which direction is better.", choices=("higher", "lower"))
    label: str = setting("", "What it is called on the page; empty for the name of the value.")
    scale: float = setting(1.0, "Factor, 100 for percent; after ``normalise``.")
    normalise: Normalise | None = setting(None, "Scores that become 0 and 1.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.value:
            raise ValueError(f"{self.section}.value is missing: the name of a value in metrics.csv")
        if len(self.part) != 2 or not self.part[0] < self.part[1]:
            raise ValueError(f"{self.section}.part={self.part} must be two shares of the run, the smaller first")
        if self.scale == 0:
            raise ValueError(f"{self.section}.scale=0 must not be 0")

    @property
    def name(self) -> str:
        """What it is called on the page."""
        return self.label or self.value

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.better == "higher" else -1


@dataclass
class Figure(Settings):
    """One figure; each kind uses some of the settings and refuses the others."""

    section: ClassVar[str] = "report.figures"

    id: str = setting("", "Name of its files.")
    kind: str = setting("curves", "What is drawn.", choices=KINDS)
    title: str = setting("", "Its heading.")
    conditions: list[str] = setting([], "Conditions that are shown, empty for all.")
    methods: list[str] = setting([], "Methods that are shown, empty for all.")
    values: list[str] = setting([], "curves: names in ``metrics.csv``, one row of panels each.")
    by: str = setting("step", "curves: what the horizontal axis counts.", choices=CLOCKS)
    window: int = setting(1, "curves: running mean over this number of bins.", low=1)
    bins: int = setting(0, "curves: bins of the axis, 0 for one per row or task, 200 at most.", low=0)
    part: list[float] = setting([0.0, 1.0], "curves: first and last share of the run's steps that are shown.", low=0.0, high=1.0)
    band: str = setting("auto", "curves: band over seeds; ``auto`` is a t interval from 3 seeds on.", choices=BANDS)
    value: str = setting(
        "", "heatmap, mosaic, matrix, series: name of what is drawn; empty for the firing rates or the first matrix."
    )
    layers: list[str] = setting([], "heatmap, mosaic: layers, empty for all.")
    group: str = setting(
        "none",
        "heatmap, mosaic: ``block_relu`` shows first and second ReLUs of blocks separately.",
        choices=("none", "block_relu"),
    )
    colours: str = setting(
        "shared", "matrix: ``shared`` for one colour scale, ``own`` for one for each panel.", choices=("shared", "own")
    )
    metrics: list[str] = setting(
        [], "scatter: metrics, without ``plasticity/``; predictors: those at the branch, without ``at_branch/``, empty for all."
    )
    at: float | None = setting(
        None, "matrix, series, scatter: share of the run; None is its end, and for scatter its half.", low=0.0, high=1.0
    )
    outcome: Outcome | None = setting(
        None, "final, differences, dose, scatter, gains, predictors: another outcome than the report's."
    )
    setting: str = setting(
        "", "dose: name of the setting that varies, ``interventions.l2.coefficient``."
    )  # last, as it hides the function

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_file_name(self.section, self.id)
        if self.kind == "curves" and not self.values:
            raise ValueError(f"{self.section}.{self.id}: curves need values=[<name in metrics.csv>, ...]")
        if len(self.part) != 2 or not self.part[0] < self.part[1]:
            raise ValueError(f"{self.section}.{self.id}.part={self.part} must be two shares of the run, the smaller first")
        if self.kind == "series" and not self.value:
            raise ValueError(f"{self.section}.{self.id}: series need value=<name in curves.csv>")
        if self.kind == "dose" and not self.setting:
            raise ValueError(f"{self.section}.{self.id}: dose needs setting=<name of the setting that varies>")


def _require_file_name(section: str, id: str) -> None:
    """Raises ValueError unless an id can name files."""
    if not id or not id.replace("_", "").isalnum() or id != id.lower():
        raise ValueError(f"{section}.id={id!r} must be lower-case letters, digits and underscores: it names files")


@dataclass
class TableSpec(Settings):
    """One table besides the main one."""

    section: ClassVar[str] = "report.tables"

    id: str = setting("", "Name of its files.")
    rows: str = setting("method", "What the rows are: ``method``, ``condition``, or the name of a setting that varies.")
    columns: str = setting("condition", "What the columns are, as for rows.")
    value: Outcome | None = setting(None, "What is shown; None for the report's outcome.")
    digits: int = setting(3, "Significant digits.", low=1, high=9)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_file_name(self.section, self.id)


@dataclass
class Published(Settings):
    """A number that a paper gives."""

    section: ClassVar[str] = "report.published"

    condition: str = setting("", "Name of a condition.")
    method: str = setting("", "Name of a method.")
    value: float = setting(0.0, "The number, on the scale of the report's outcome.")
    spread: float | None = setting(None, "The number after its plus or minus.", low=0.0)
    kind: str = setting("sd", "What the spread is.", choices=SPREADS)
    n: int | None = setting(None, "How many runs.", low=1)
    where: str = setting("", "Table or figure, and what differs there.")


@dataclass
class ReportSettings(Settings):
    """The ``report:`` section of a study."""

    section: ClassVar[str] = "report"

    outcome: Outcome | None = setting(None, "The one number of a run; None chooses it by what was measured.")
    also: list[Outcome] = setting([], "More columns of the main table.")
    figures: list[Figure] = setting([], "Figures; empty for those that the runs allow.")
    tables: list[TableSpec] = setting([], "Tables besides the main one.")
    published: list[Published] = setting(
        [], "Numbers of papers, shown in the same table, and as sentences with their differences from the runs."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [outcome.name for outcome in ([self.outcome] if self.outcome is not None else []) + self.also]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"report.also: two outcomes are called {name}; give one of them a label of its own")
        for what, ids in {"figures": [each.id for each in self.figures], "tables": [each.id for each in self.tables]}.items():
            twice = sorted({name for name in ids if ids.count(name) > 1})
            if twice:
                raise ValueError(f"report.{what}: id={twice[0]} is there twice; ids name files")


def report_settings(values: Mapping[str, Any]) -> ReportSettings:
    """Makes the settings of a report from plain containers, as YAML gives them.

    Raises:
        ValueError: In one line, if a key is unknown, has the wrong type, or does not belong to the kind of a figure.
    """
    return _made(ReportSettings, values, "report")


def _made(cls: type[_Made], values: Any, where: str) -> _Made:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}={values} must hold settings, <name>: <value>")
    hints = {name: hint for name, hint in get_type_hints(cls).items() if get_origin(hint) is not ClassVar}
    for key in values:
        if key not in hints:
            raise ValueError(f"{where}.{key} is unknown{did_you_mean(str(key), hints)}; {where} has {', '.join(hints)}")
    if cls is Figure:
        _refuse_unused(values, where)
    return cls(**{key: _typed(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _refuse_unused(values: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for a setting of another kind of figure, unless it has its default, as in a file with all of them."""
    kind = values.get("kind", "curves")
    for key, value in values.items() if kind in _USES else ():
        if key not in (*_COMMON, *_USES[kind]) and value != describe(Figure)[key].default:
            raise ValueError(f"{where}.{key} does not belong to kind={kind}, which has {', '.join(_USES[kind])}")


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Returns a value with the type of its annotation; whole numbers become floats where floats are meant.

    Raises:
        ValueError: It has another type.
    """
    if get_origin(hint) in (Union, UnionType):
        return None if value is None else _typed(next(kind for kind in get_args(hint) if kind is not type(None)), value, where)
    if get_origin(hint) is list:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}={value} must be a list, [{value}]")
        return [_typed(get_args(hint)[0], each, f"{where}.{number}") for number, each in enumerate(value)]
    if isinstance(hint, type) and issubclass(hint, Settings):
        if hint is Outcome and isinstance(value, str):
            return Outcome(value=value)
        return _made(hint, value, where)
    wanted: tuple[type, ...] = (int, float) if hint is float else (hint,)
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise ValueError(f"{where}={value} must be {'a number' if hint is float else f'of type {hint.__name__}'}")
    return hint(value)
