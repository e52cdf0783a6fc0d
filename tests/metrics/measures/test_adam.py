from math import log, sqrt

import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.measures.adam import step_sizes
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import view_part
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

NAMES = ("adam_step", "adam_tiny_fraction", "effective_learning_rate")


def part(optimizer: str = "adam", **settings: float) -> Updater:
    builder = PartBuilder(MLPSpec(widths=[]), (2,), torch.float32, OptimizerSettings(optimizer, 0.5, **settings))  # type: ignore[arg-type]
    return builder("q", HeadSpec("regression", 1))


def test_sums_by_hand() -> None:
    # After two steps of betas 0.5 and 0.75: corrections 0.75 and 0.4375. m = 3 and 0, v = 4 and 0, eps 1.
    group = {"betas": (0.5, 0.75), "eps": 1.0, "lr": 6.0}
    sums = step_sizes(torch.tensor([2.25, 0.0]), torch.tensor([1.75, 0.0]), 2.0, group)
    assert sums.tolist() == pytest.approx([2.0, 3 / 3, 1.0, log(6 / 3) + log(6 / 1)])


def test_one_step_has_the_size_of_the_learning_rate() -> None:
    # After one step m = g and v = g^2, whatever the betas: |m| / sqrt(v) is 1. The gradient is (3, 4), and 1 for the bias.
    learned = part()
    learned.step(learned.forward(torch.tensor([[3.0, 4.0]])).sum(), None)
    views = [view_part("q", learned, None)]
    values = {name: {key: float(value) for key, value in CATALOGUE[name].measure(views).items()} for name in NAMES}  # type: ignore[arg-type]
    assert values["adam_step"] == pytest.approx({"": 1.0, "/q/head": 1.0}, rel=1e-4)
    assert set(values["adam_tiny_fraction"].values()) == {0.0}
    assert values["effective_learning_rate"][""] == pytest.approx(0.5 / (3 * 4 * 1) ** (1 / 3), rel=1e-4)


def test_entries_without_a_gradient_are_tiny() -> None:
    learned = part()
    learned.step(learned.forward(torch.tensor([[3.0, 0.0]])).sum(), None)
    values = CATALOGUE["adam_tiny_fraction"].measure([view_part("q", learned, None)])
    assert float(values[""]) == pytest.approx(1 / 3)  # type: ignore[arg-type]


def test_a_spike_shows() -> None:
    # After many gradients of 1 one of 100: m = 1 + 9.9 and v = 1 + 10 with betas 0.9 and 0.999, so 10.9 / sqrt(11).
    learned = part()
    for scale in [1.0] * 2000 + [100.0]:
        learned.step(learned.forward(torch.ones(1, 2)).sum() * scale, None)
    values = CATALOGUE["adam_step"].measure([view_part("q", learned, None)])
    assert float(values[""]) == pytest.approx(10.9 / sqrt(11), rel=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_other_optimizers_have_no_such_moments(name: str) -> None:
    for learned in (part("sgd"), part()):
        if learned.optimizer.__class__.__name__ == "SGD":
            learned.step(learned.forward(torch.ones(1, 2)).sum(), None)
        value = CATALOGUE[name].measure([view_part("q", learned, None)])[""]
        assert isinstance(value, Undefined)
        assert value.reason == "the optimizer has no moments like Adam's, or has made no step yet"
