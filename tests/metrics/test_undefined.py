import copy
import csv
import io
import json
import math
import pickle

import pytest

from plasticity.metrics.undefined import Undefined


def test_is_nan_in_every_numeric_use() -> None:
    value = Undefined("all features are zero")
    assert isinstance(value, float)
    assert math.isnan(value)
    assert math.isnan(float(value))
    assert math.isnan(value + 1)
    assert value != value


def test_repr_and_attribute_show_the_reason() -> None:
    value = Undefined("all features are zero")
    assert value.reason == "all features are zero"
    assert repr(value) == "Undefined('all features are zero')"


def test_text_of_it_is_what_a_reader_of_numbers_understands() -> None:
    value = Undefined("one, two")
    assert str(value) == f"{value}" == f"{value:.3f}" == "nan"
    line = io.StringIO()
    csv.writer(line).writerow([1, value])
    assert line.getvalue().strip() == "1,nan"
    assert json.dumps(value) == "NaN"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_keep_the_reason(duplicate: object) -> None:
    value = duplicate(Undefined("no gradient"))  # type: ignore[operator]
    assert type(value) is Undefined
    assert value.reason == "no gradient"
    assert math.isnan(value)
