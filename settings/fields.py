"""Settings as dataclass fields: each declares its default, its range or choices, and one sentence of doc.

A class whose instances a user configures derives from ``Settings`` and writes its fields with ``setting``:

    @dataclass
    class ProbeSettings(Settings):
        section: ClassVar[str] = "probe"

        steps: int = setting(1000, "Updates of each probe.", low=1)

An instance with a value that is not allowed is refused when it is made; ``describe`` lists the settings.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, get_type_hints

from plasticity.settings.naming import did_you_mean

_KEY: Final = "setting"


@dataclass(frozen=True)
class Rule:
    """What a setting means and what it may be.

    Attributes:
        doc: One or two sentences, with the unit.
        low: Smallest value; of a list, of each entry.
        high: Largest value.
        above: Bound that a value must exceed, or None.
        below: Bound that a value must stay under, or None.
        choices: The values there are, or a function that returns them; empty for any.
    """

    doc: str = ""
    low: float = -math.inf
    high: float = math.inf
    above: float | None = None
    below: float | None = None
    choices: Sequence[str] | Callable[[], Sequence[str]] = ()

    def options(self) -> tuple[str, ...]:
        """Returns the choices, looked up now: a registry may have grown."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    def allowed(self) -> str:
        """Returns the range in words, empty if there is none."""
        if options := self.options():
            return f"one of {', '.join(options)}"
        lower = f"above {self.above:g}" if self.above is not None else "" if self.low == -math.inf else f"at least {self.low:g}"
        upper = f"below {self.below:g}" if self.below is not None else "" if self.high == math.inf else f"at most {self.high:g}"
        if self.above is None and self.below is None and lower and upper:
            return f"between {self.low:g} and {self.high:g}"
        return " and ".join(filter(None, (lower, upper)))


class Described(NamedTuple):
    """One setting of a class.

    Attributes:
        name: Name of the field.
        type: Its annotation.
        default: Its default.
        rule: Its rule; an empty one if the field declares none.
    """

    name: str
    type: object
    default: object
    rule: Rule


def setting(
    default: Any,
    doc: str = "",
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | Callable[[], Sequence[str]] = (),
    kw_only: bool = False,
) -> Any:
    """Returns a dataclass field with its rule in the metadata.

    Args:
        default: Lists and dicts are copied for every instance. None means that the setting may be left open.
        doc: What it means, with its unit.
        low: Smallest value; of a list, of each entry.
        high: Largest value.
        above: Bound that a value must exceed.
        below: Bound that a value must stay under.
        choices: Names to choose from, or a function that returns them.
        kw_only: Whether it can be given by name alone.
    """
    metadata = {_KEY: Rule(doc, low, high, above, below, choices)}
    if isinstance(default, list | dict | set):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata, kw_only=kw_only)
    return dataclasses.field(default=default, metadata=metadata, kw_only=kw_only)


class Settings:
    """Base of the classes whose fields a user sets.

    Attributes:
        section: Where the settings stand in the config, ``agent`` or ``interventions.redo``; named in messages.
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Refuses values that a field's rule does not allow; a subclass that checks more calls this first."""
        check(self, self.section)


def check(settings: object, section: str) -> None:
    """Checks every field of a dataclass instance by its rule.

    Raises:
        ValueError: A value is not allowed; the message names the setting, the value and what is allowed.
    """
    for entry in dataclasses.fields(settings):  # type: ignore[arg-type]  # any dataclass
        rule = _rule_of(type(settings), entry.name)
        if rule is not None:
            name = f"{section}.{entry.name}" if section else entry.name
            for value in _values(getattr(settings, entry.name)):
                _check_value(name, value, rule)


def describe(cls: type) -> dict[str, Described]:
    """Returns the settings of a dataclass by name, in their order."""
    hints = get_type_hints(cls)
    found = {}
    for entry in dataclasses.fields(cls):
        factory = entry.default_factory
        default = entry.default if factory is dataclasses.MISSING else factory()
        found[entry.name] = Described(entry.name, hints[entry.name], default, _rule_of(cls, entry.name) or Rule())
    return found


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises ValueError naming ``value`` and the ``choices`` unless it is one of them."""
    _check_value(name, value, Rule(choices=choices))


def require_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises ValueError unless ``low <= value <= high``; for bounds that no field's rule can express."""
    _check_value(name, value, Rule(low=low, high=high))


def _rule_of(cls: type, name: str) -> Rule | None:
    """Returns the rule of a field; a subclass that only changes the default keeps the rule that it inherits."""
    for base in cls.__mro__:
        entry = vars(base).get("__dataclass_fields__", {}).get(name)
        if entry is not None and _KEY in entry.metadata:
            rule: Rule = entry.metadata[_KEY]
            return rule
    return None


def _values(value: object) -> Iterator[object]:
    if isinstance(value, list | tuple):
        yield from value
    elif value is not None and not isinstance(value, Mapping):
        yield value


def _check_value(name: str, value: object, rule: Rule) -> None:
    if isinstance(value, str):
        options = rule.options()
        if options and value not in options:
            raise ValueError(f"{name}={value} is unknown{did_you_mean(value, options)}; choose from {', '.join(options)}")
    elif isinstance(value, int | float) and not isinstance(value, bool) and not _inside(value, rule):
        raise ValueError(f"{name}={value} must be {rule.allowed() or 'a finite number'}")


def _inside(value: float, rule: Rule) -> bool:
    above = rule.above is None or value > rule.above
    below = rule.below is None or value < rule.below
    return math.isfinite(value) and rule.low <= value <= rule.high and above and below
