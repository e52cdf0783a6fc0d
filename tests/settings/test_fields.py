import math
from dataclasses import dataclass
from typing import ClassVar

import pytest

from plasticity.settings.fields import Settings, describe, setting


@dataclass
class Example(Settings):
    section: ClassVar[str] = "example"

    rate: float = setting(0.5, "Share of units.", low=0, below=1)
    units: int = setting(4, low=1, high=8)
    scale: float | None = setting(None, above=0)
    widths: list[int] = setting([3, 2], "Units of each layer.", low=1)
    kind: str = setting("plain", choices=("plain", "fancy"))
    free: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "fancy" and self.units == 1:
            raise ValueError("example.kind=fancy needs two units")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rate", 1.0, "example.rate=1.0 must be at least 0 and below 1"),
        ("rate", -0.1, "example.rate=-0.1 must be at least 0 and below 1"),
        ("rate", math.nan, "example.rate=nan must be at least 0 and below 1"),
        ("units", 9, "example.units=9 must be between 1 and 8"),
        ("scale", 0.0, "example.scale=0.0 must be above 0"),
        ("scale", math.inf, "example.scale=inf must be above 0"),
        ("widths", [3, 0], "example.widths=0 must be at least 1"),
        ("kind", "fncy", "example.kind=fncy is unknown (did you mean fancy?); choose from plain, fancy"),
    ],
)
def test_a_value_outside_its_rule_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=r"^example") as caught:
        Example(**{name: value})
    assert str(caught.value) == message


def test_values_inside_are_taken_and_lists_are_not_shared() -> None:
    first, second = Example(rate=0.0, units=8, scale=1e-9), Example()
    first.widths.append(5)
    assert second.widths == [3, 2]
    assert second.scale is None


def test_a_class_may_check_more() -> None:
    with pytest.raises(ValueError, match="needs two units"):
        Example(kind="fancy", units=1)


def test_settings_are_described_with_default_and_range() -> None:
    found = describe(Example)
    assert list(found) == ["rate", "units", "scale", "widths", "kind", "free"]
    assert (found["rate"].default, found["rate"].rule.doc, found["rate"].rule.allowed()) == (
        0.5,
        "Share of units.",
        "at least 0 and below 1",
    )
    assert found["widths"].default == [3, 2]
    assert found["kind"].rule.allowed() == "one of plain, fancy"
    assert found["free"].rule.allowed() == ""
