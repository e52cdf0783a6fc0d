import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.measures.churn import (
    flipped_fraction,
    mean_change,
    mean_squared_change,
    policy_churn,
    policy_mean_churn,
    value_churn,
)
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import view_part
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

BEFORE = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0]])
AFTER = torch.tensor([[3.0, 2.0], [3.0, 1.0], [0.0, 1.0], [5.0, 4.0]])


def part(head: HeadSpec) -> Updater:
    return PartBuilder(MLPSpec(widths=[3]), (2,), torch.float32, OptimizerSettings())("q", head)


def test_by_hand() -> None:
    assert flipped_fraction(BEFORE, AFTER) == 0.25
    assert mean_change(BEFORE, AFTER) == 3 / 8
    assert mean_squared_change(BEFORE, AFTER) == 5 / 8


@pytest.mark.parametrize(
    ("head", "flips", "means", "values"),
    [
        (HeadSpec("q", 2), 0.25, None, 3 / 8),
        (HeadSpec("policy", 2), 0.25, None, None),
        (HeadSpec("classification", 2), 0.25, None, None),
        (HeadSpec("gaussian", 1), None, 4 / 4, None),
        (HeadSpec("squashed_gaussian", 1), None, 4 / 4, None),
        (HeadSpec("regression", 2), None, None, 3 / 8),
        (HeadSpec("policy", 1, second=HeadSpec("value", 1)), None, None, 1 / 4),
    ],
)
def test_what_each_kind_of_output_has(head: HeadSpec, flips: float | None, means: float | None, values: float | None) -> None:
    network = part(head).network
    for function, expected in ((policy_churn, flips), (policy_mean_churn, means), (value_churn, values)):
        found = function(network, BEFORE, AFTER)
        assert isinstance(found, Undefined) if expected is None else found == expected


def test_values_of_a_categorical_head_are_their_means() -> None:
    network = part(HeadSpec("categorical", 1, bins=3, low=-1.0, high=1.0)).network
    before, after = torch.zeros(1, 1, 3), torch.tensor([[[-50.0, -50.0, 50.0]]])
    assert value_churn(network, before, after) == pytest.approx(1.0)


def test_it_is_that_of_the_last_hundredth_update() -> None:
    learned = part(HeadSpec("q", 2))
    assert isinstance(CATALOGUE["value_churn"].measure([view_part("q", learned, None)])[""], Undefined)
    learned.trace.outputs = (BEFORE, AFTER)
    views = [view_part("q", learned, None)]
    assert CATALOGUE["value_churn"].measure(views) == {"": 3 / 8, "/q": 3 / 8}
    assert CATALOGUE["policy_churn"].measure(views) == {"": 0.25, "/q": 0.25}
