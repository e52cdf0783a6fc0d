"""When self-normalized resets happen, against the paper's rule written with loops, one example at a time."""

import math
from typing import Any, NamedTuple

import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.self_normalized_resets import SelfNormalizedResets
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

UNITS = 12


def part_of(**settings: Any) -> Updater:
    chosen = OptimizerSettings("sgd", 0.1)
    methods = {"self_normalized_resets": lambda: SelfNormalizedResets(**settings)}
    return PartBuilder(MLPSpec(widths=[UNITS]), (2,), torch.float32, chosen, methods)("q", HeadSpec("q", 2))


class Inputs(NamedTuple):
    """A batch without targets."""

    inputs: torch.Tensor


class Driver:
    """Shows the method what fires, without a network's forward."""

    def __init__(self, **settings: Any) -> None:
        self.part = part_of(**settings)
        self.method: Any = self.part.interventions["self_normalized_resets"]
        (self.layer,) = self.part.network.units.layers
        self.step = 0

    def see(self, on: list[list[bool]]) -> int:
        """One update, (examples, units) firings; returns how many units were reset."""
        self.step += 1
        post = {self.layer.name: torch.tensor(on).float()}
        self.method.measure({}, post, self.method.running())
        batch = Inputs(torch.zeros(len(on), 2))
        view = self.part.hooks.view("self_normalized_resets")._replace(step=self.step, batch=batch)
        return int(self.method.after_step(view)["units_reset"])


class Twin:
    """One unit: its age, the silences of the period and the age of its reset, as Python numbers in one unit of time."""

    def __init__(self, eta: float, floor: float, initial: float, cap: float) -> None:
        self.eta, self.floor, self.threshold, self.cap = eta, floor, initial, cap
        self.age = 0.0
        self.silences: list[float] = []

    def see(self, on: list[bool], length: float) -> bool:
        fires = False
        for example in on:
            fires = fires or example
        if fires:
            if self.age > 0:
                self.silences.append(self.age)
            self.age = 0.0
            return False
        self.age += length
        if self.age < self.threshold:
            return False
        self.silences.append(self.age)
        self.age = 0.0
        return True

    def end_period(self) -> None:
        if self.silences:
            age = 1.0  # the first with P(A >= age) <= eta
            while sum(silence >= age for silence in self.silences) > self.eta * len(self.silences) + 1e-9:
                age += 1.0
            moved = age if age < self.threshold else 2 * self.threshold
            self.threshold = min(max(moved, self.floor), self.cap)
        self.silences = []


@pytest.mark.parametrize("floor", [0, 100])
@pytest.mark.parametrize("time", ["example", "step"])
@pytest.mark.parametrize("batch", [1, 16, 100])
def test_resets_are_those_of_the_papers_rule(batch: int, time: str, floor: int) -> None:
    eta, initial, cap, period = 0.05, 60 * batch, 2_000 * batch, 90
    driver = Driver(
        rejection_probability=eta,
        unit_of_time=time,
        threshold_every_updates=period,
        initial_threshold_examples=initial,
        threshold_floor_examples=floor,
        threshold_cap_examples=cap,
    )
    per_unit = 1 if time == "example" else batch
    length = batch / per_unit
    twins = [Twin(eta, max(math.ceil(floor / per_unit), length), initial / per_unit, cap / per_unit) for _ in range(UNITS)]
    generator = torch.Generator().manual_seed(batch)
    resets = 0
    for step in range(1, 301):
        # The larger u the less often unit u fires; every unit has spells of silence, and the last four fall silent for ever.
        awake = (torch.rand(UNITS, generator=generator) < torch.linspace(0.9, 0.02, UNITS)) & (
            (torch.arange(UNITS) * 31 + step) % 150 > 20
        )
        awake[-4:] &= step < 100
        on = (torch.rand(batch, UNITS, generator=generator) < 0.5) & awake
        on[0] |= awake
        expected = sum(twin.see(on[:, unit].tolist(), length) for unit, twin in enumerate(twins))
        assert driver.see(on.tolist()) == expected, step
        resets += expected
        if step % period == 0:
            for twin in twins:
                twin.end_period()
        assert driver.method.state["age"].tolist() == [twin.age for twin in twins]
        assert driver.method.state["threshold"].tolist() == [twin.threshold for twin in twins]
    assert resets > 3


def silences(driver: Driver, lengths: dict[int, int]) -> None:
    """Lets every unit record as many silences of each length as given, in updates of one example."""
    for length, count in lengths.items():
        for _ in range(count):
            for _ in range(length):
                driver.see([[False] * UNITS])
            driver.see([[True] * UNITS])


@pytest.mark.parametrize(("rule", "expected"), [("paper", 3), ("published", 2)])
def test_the_age_of_a_reset_by_hand(rule: str, expected: int) -> None:
    # 90 silences of 1, 5 of 2, 3 of 3, 2 of 5: P(A >= 2) = .10, P(A >= 3) = .05, P(A >= 4) = .02.
    lengths = {1: 90, 2: 5, 3: 3, 5: 2}
    updates = sum((length + 1) * count for length, count in lengths.items())
    driver = Driver(rejection_probability=0.05, rule=rule, threshold_every_updates=updates, threshold_floor_examples=0)
    silences(driver, lengths)
    assert driver.method.state["threshold"].tolist() == [expected] * UNITS
    seen = [driver.see([[False] * UNITS]) for _ in range(4)]
    assert seen.index(UNITS) + 1 == expected


@pytest.mark.parametrize("time", ["example", "step"])
@pytest.mark.parametrize(("batch", "updates"), [(1, 100), (16, 7), (100, 1)])
def test_the_floor_is_in_examples(batch: int, updates: int, time: str) -> None:
    # One silence of one update: its quantile is below the floor, which is 100 examples, in whole updates.
    driver = Driver(threshold_every_updates=2, unit_of_time=time)
    driver.see([[False] * UNITS] * batch)
    driver.see([[True] * UNITS] * batch)
    driver.method.threshold_every_updates = 0
    wanted = max(updates, 2) if batch == 100 else updates  # P(A >= 1) = 1 of a silence of one update
    seen = [driver.see([[False] * UNITS] * batch) for _ in range(wanted)]
    assert seen == [0] * (wanted - 1) + [UNITS]


@pytest.mark.parametrize("time", ["example", "step"])
@pytest.mark.parametrize(("batch", "first", "largest"), [(1, 40, 70), (16, 3, 5)])
def test_initial_and_largest_thresholds_are_in_examples(batch: int, first: int, largest: int, time: str) -> None:
    driver = Driver(
        initial_threshold_examples=40,
        threshold_cap_examples=70,
        threshold_floor_examples=0,
        unit_of_time=time,
        threshold_every_updates=first,
    )
    silent = [[False] * UNITS] * batch
    # The reset ends the period: its own age is the quantile, nothing is contracted, and twice the threshold is above the cap.
    assert [driver.see(silent) for _ in range(first)] == [0] * (first - 1) + [UNITS]
    driver.method.threshold_every_updates = 0
    assert [driver.see(silent) for _ in range(largest)] == [0] * (largest - 1) + [UNITS]


def test_the_published_code_lets_thresholds_fall_to_the_floor() -> None:
    for rule, expected in (("published", 100.0), ("paper", 20_000.0)):
        driver = Driver(threshold_every_updates=2, rule=rule)
        driver.see([[True] * UNITS])
        driver.see([[True] * UNITS])
        assert driver.method.state["threshold"].tolist() == [expected] * UNITS


def test_larger_batches_make_wider_bins_and_begin_the_records_again() -> None:
    driver = Driver(threshold_every_updates=50)
    for _ in range(3):
        driver.see([[False] * UNITS])
        driver.see([[True] * UNITS])
    assert float(driver.method.state["histogram"][:, 1].sum()) == 3 * UNITS
    driver.see([[False] * UNITS] * 4)
    driver.see([[True] * UNITS] * 4)
    assert driver.method.state["bin_width"] == 4.0
    assert driver.method.state["histogram"][0].nonzero().flatten().tolist() == [1]
    assert float(driver.method.state["histogram"].sum()) == UNITS
