import math
from copy import deepcopy
from typing import Any

import pytest
import torch

from plasticity.interventions.methods.fixed_threshold_resets import FixedThresholdResets
from plasticity.interventions.methods.self_normalized_resets import SelfNormalizedResets
from plasticity.interventions.surgery.firing_laws import (
    exponential_percentile,
    geometric_percentile,
    geometric_time,
    next_threshold,
    percentile_of,
    silence_before,
    silence_bins,
)
from plasticity.interventions.surgery.silent_units import firings

# Functions by hand


def test_bins_by_hand() -> None:
    assert silence_bins(5).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, math.inf]
    ends = silence_bins(5_000).tolist()
    assert ends[:2_048] == list(range(2_048))
    assert ends[2_048:2_051] == [2_111.0, 2_175.0, 2_239.0]  # 64 wide from 2,048 on
    assert ends[2_080:2_082] == [4_223.0, 4_351.0]  # 128 wide from 4,096 on
    assert ends[-2:] == [8_191.0, math.inf]
    assert len(silence_bins(20_000)) == 2_177


def test_firings_by_hand() -> None:
    dense = torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 0.5]])
    other = torch.tensor([[3.0], [0.0]])
    assert firings([dense, other], [1, 1], 0.0, count=False).tolist() == [False, True, True, True]
    assert firings([dense, other], [1, 1], 0.5, count=False).tolist() == [False, True, False, True]
    assert firings([dense, other], [1, 1], 0.0, count=True).tolist() == [0.0, 1.0, 0.5, 0.5]
    halves = torch.tensor([[0.0, 1.0, 2.0, 0.0], [0.0, 0.0, 2.0, 3.0]])  # relu(z0), relu(z1), relu(-z0), relu(-z1)
    assert firings([halves], [2], 0.0, count=True).tolist() == [1.0, 1.0]
    assert firings([halves * torch.tensor([1, 1, 0, 0])], [2], 0.0, count=True).tolist() == [0.0, 0.5]
    images = torch.zeros(2, 2, 2, 2)
    images[0, 1, 0, 1] = 1.0
    assert firings([images, dense], [1, 1], 0.0, count=True).tolist() == [0.0, 0.125, 0.0, 1.0, 0.5]
    assert firings([images, dense], [1, 1], 0.0, count=False).tolist() == [False, True, False, True, True]


def test_silence_before_by_hand() -> None:
    # Four firings of sixteen examples after eight silent ones: 24 / 4 = 6 from one to the next, five silent ones between. On all
    # of the examples right away: none. One of sixteen: 15. Three of sixteen: 13 / 3, rounded up.
    age, share = torch.tensor([8.0, 0.0, 0.0, 0.0]), torch.tensor([4, 16, 1, 3]) / 16
    assert silence_before(age, share, 16.0).tolist() == [5.0, 0.0, 15.0, 5.0]
    assert silence_before(torch.tensor([7.0]), torch.tensor([1.0]), 1.0).tolist() == [7.0]


@pytest.mark.parametrize(("eta", "expected"), [(0.5, 2.0), (0.25, 3.0), (0.24, 10.0), (0.01, 10.0)])
def test_percentile_by_hand(eta: float, expected: float) -> None:
    # Silences 1, 2, 3, 10, and a hundred of 0 that do not count: half of them are at most 2, three quarters at most 3.
    ends = silence_bins(100)
    histogram = torch.zeros(2, len(ends))
    histogram[0, [0, 1, 2, 3, 10]] = torch.tensor([100.0, 1.0, 1.0, 1.0, 1.0])
    estimate, known = percentile_of(histogram, ends, eta)
    assert known.tolist() == [True, False]
    assert estimate[0] == expected


def test_percentile_within_a_wide_bin() -> None:
    # Ten silences of 2,048 to 2,111: the half of them are taken to be at most 2,047 + 64 / 2 = 2,079.
    ends = silence_bins(5_000)
    histogram = torch.zeros(1, len(ends))
    histogram[0, 2_048] = 10.0
    assert percentile_of(histogram, ends, 0.5)[0].tolist() == [2_079.0]
    assert percentile_of(histogram, ends, 0.01)[0].tolist() == [2_111.0]


def test_silences_beyond_all_bins_are_infinite() -> None:
    ends = silence_bins(20)
    histogram = torch.zeros(1, len(ends))
    histogram[0, -1] = 1.0
    assert percentile_of(histogram, ends, 0.1)[0].tolist() == [math.inf]


def test_other_laws_by_hand() -> None:
    # Two firings in 100: exp(-a / 50) = 0.1 at a = 115.13. (1 - 0.5)^a = 0.125 at a = 3.
    assert exponential_percentile(torch.tensor([2.0]), torch.tensor([100.0]), 0.1).item() == pytest.approx(115.1293)
    assert geometric_percentile(torch.tensor([0.5, 0.0, 1.0]), 0.125).tolist() == pytest.approx([3.0, math.inf, 0.0])
    assert next_threshold(torch.tensor([10.0, 10.0, 10.0]), torch.tensor([4.0, 10.0, 30.0]), 2.0).tolist() == [4.0, 20.0, 20.0]


# Against an implementation with loops


class Plain:
    """Ages, records and thresholds of every unit as Python numbers; a list of silences in the place of a histogram."""

    def __init__(self, settings: dict[str, Any], eta: float, time: float) -> None:
        self.s, self.eta, self.time = settings, eta, time
        self.age, self.rate, self.threshold = 0.0, 0.0, 3 * time
        self.silences: list[tuple[float, float]] = []
        self.firings, self.elapsed = 0.0, 0.0

    def see(self, on: list[bool]) -> bool:
        """Receives one batch; returns whether the unit is to be reset."""
        share = sum(on) / len(on)
        fired = share > 0
        count = (share * self.time if self.s["fired"] == "fraction" else 1.0) if fired else 0.0
        if fired:
            silence = math.ceil((self.age + self.time) / count - 1 - 1e-4) if self.s["fired"] == "fraction" else self.age
            self.silences.append((silence, count))
            self.firings += count
            self.elapsed += self.age + self.time
        self.rate = 0.9 * self.rate + 0.1 * (share if self.s["fired"] == "fraction" else float(fired))
        self.age = 0.0 if fired else self.age + self.time
        if self.age < self.threshold:
            return False
        self.silences.append((self.age, 1.0))
        self.firings += 1
        self.elapsed += self.age
        self.age = 0.0
        return True

    def end_period(self, step: int) -> None:
        estimate: float | None
        if self.s["estimator"] == "ema":
            p = self.rate / (1 - 0.9**step)
            estimate = math.inf if p == 0 else 0.0 if p > 1 - 1e-7 else math.log(self.eta) / math.log1p(-p)
            estimate *= self.time if self.s["fired"] == "any" else 1.0
        else:
            if self.s["estimator"] == "exponential":
                estimate = -math.log(self.eta) * self.elapsed / self.firings if self.firings else None
            else:
                estimate = self.quantile()
            self.silences, self.firings, self.elapsed = [], 0.0, 0.0
            if estimate is None:
                return
            if self.s.get("move") != "estimate":
                estimate = estimate if estimate < self.threshold else 2 * self.threshold
        self.threshold = min(max(estimate, self.time), 15.0)

    def quantile(self) -> float | None:
        counted = sorted((silence, weight) for silence, weight in self.silences if silence > 0)
        total, summed = sum(weight for _, weight in counted), 0.0
        for silence, weight in counted:
            summed += weight
            if summed >= (1 - self.eta) * total * (1 - 1e-6):
                return silence + 1
        return None


@pytest.mark.parametrize("time", ["example", "step"])
@pytest.mark.parametrize("fired", ["any", "fraction"])
@pytest.mark.parametrize("estimator", ["histogram", "exponential", "ema"])
def test_against_loops(trained: Any, layout: str, estimator: str, fired: str, time: str) -> None:
    # Batches of one example and short silences, so that bins are exact; a level above 0 makes units fall silent.
    count, level = (2, 1.1) if "conv" in layout else (1, 0.4)
    settings: dict[str, Any] = {"estimator": estimator, "fired": fired}
    examples = {"initial_threshold_examples": 3 * count, "threshold_floor_examples": 0}
    examples["threshold_cap_examples"] = 15 * count if time == "step" else 15
    pair = trained(
        layout,
        lambda: SelfNormalizedResets(
            rejection_probability=0.2,
            threshold_every_updates=6,
            firing_level=level,
            unit_of_time=time,
            decay=0.9,
            **settings,
            **examples,
        ),
    )
    length = float(count) if time == "example" else 1.0
    plain = {(layer.name, unit): Plain(settings, 0.2, length) for layer in pair.layers for unit in range(layer.units)}
    resets, thresholds = 0, set()
    for step in range(1, 21):
        logs = pair.update(step, count)
        chosen = {
            layer.name: [unit for unit in range(layer.units) if plain[layer.name, unit].see(pair.fires(layer, unit, level))]
            for layer in pair.layers
        }
        assert int(logs["method/units_reset"]) == sum(map(len, chosen.values()))
        pair.assert_reset(chosen)
        resets += int(logs["method/units_reset"])
        assert pair.method.state["age"].tolist() == [unit.age for unit in plain.values()]
        if step % 6 == 0:
            for unit in plain.values():
                unit.end_period(step)
        expected = [unit.threshold for unit in plain.values()]
        assert pair.method.state["threshold"].tolist() == pytest.approx(expected, rel=1e-4)
        thresholds |= set(expected)
    assert resets > 3
    assert len(thresholds) > 1


@pytest.mark.parametrize("fired", ["any", "fraction"])
@pytest.mark.parametrize("estimator", ["histogram", "exponential", "ema"])
def test_thresholds_that_take_estimates_as_they_are_at_times_of_chance(trained: Any, estimator: str, fired: str) -> None:
    settings: dict[str, Any] = {"estimator": estimator, "fired": fired, "move": "estimate"}
    pair = trained(
        "mlp",
        lambda: SelfNormalizedResets(
            rejection_probability=0.2,
            threshold_probability=0.3,
            firing_level=0.4,
            decay=0.9,
            initial_threshold_examples=3,
            threshold_floor_examples=0,
            threshold_cap_examples=15,
            **settings,
        ),
    )
    plain = [Plain(settings, 0.2, 1.0) for layer in pair.layers for _ in range(layer.units)]
    places = [(layer, unit) for layer in pair.layers for unit in range(layer.units)]
    periods, thresholds = 0, set()
    for step in range(1, 25):
        ends = step == pair.method.state["period_ends"]
        logs = pair.update(step, 1)
        resets = sum(own.see(pair.fires(*place, 0.4)) for own, place in zip(plain, places, strict=True))
        assert int(logs["method/units_reset"]) == resets
        assert ends == ("method/threshold" in logs)
        if ends:
            periods += 1
            for own in plain:
                own.end_period(step)
        expected = [own.threshold for own in plain]
        assert pair.method.state["threshold"].tolist() == pytest.approx(expected, rel=1e-4)
        thresholds |= set(expected)
    assert 3 < periods < 14
    assert len(thresholds) > 2


def test_a_period_that_always_ends_is_one_update_long(trained: Any) -> None:
    # No unit fires, so that it does not matter that resets draw other weights.
    common = {"initial_threshold_examples": 20, "threshold_floor_examples": 0, "firing_level": 1e9, "rejection_probability": 0.2}
    settings = [{"threshold_probability": 1.0}, {"threshold_every_updates": 1}]
    seen = []
    for own in settings:
        pair = trained("mlp", lambda own=own: SelfNormalizedResets(**common, **own))
        for step in range(8):
            pair.update(step)
        seen.append(pair.method.state["threshold"].tolist())
    assert seen[0] == seen[1]
    assert set(seen[0]) != {20.0}


def test_periods_of_chance_continue_after_a_resume(trained: Any) -> None:
    settings = {"threshold_probability": 0.4, "move": "estimate", "estimator": "exponential", "fired": "fraction"}
    settings |= {"initial_threshold_examples": 8, "threshold_floor_examples": 0, "firing_level": 0.6}
    whole, resumed = (trained("mlp", lambda: SelfNormalizedResets(**settings)) for _ in range(2))
    for step in range(6):
        whole.update(step)
    resumed.update(99)
    resumed.part.load_state_dict(deepcopy(whole.part.state_dict()))
    logs = [[pair.update(step) for step in range(6, 16)] for pair in (whole, resumed)]
    assert [{key: float(value) for key, value in of.items()} for of in logs[0]] == [
        {key: float(value) for key, value in of.items()} for of in logs[1]
    ]
    assert sum("method/threshold" in of for of in logs[0]) > 1
    assert torch.equal(whole.method.state["threshold"], resumed.method.state["threshold"])
    for one, two in zip(whole.part.network.parameters(), resumed.part.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_times_of_chance_by_hand() -> None:
    # At 1/2 the first succeeds below 0.5, the second below 0.75, the third below 0.875.
    uniforms = [0.0, 0.4999, 0.5, 0.7499, 0.75, 0.8751]
    assert [geometric_time(uniform, 0.5) for uniform in uniforms] == [1, 1, 2, 2, 3, 4]
    assert [geometric_time(uniform, 1.0) for uniform in uniforms] == [1] * 6
    drawn = [geometric_time(float(uniform), 0.02) for uniform in torch.rand(4000, generator=torch.Generator().manual_seed(0))]
    assert sum(drawn) / 4000 == pytest.approx(50, rel=0.05)  # three deviations of 49.5 / sqrt(4000)
    assert sum(time > 50 for time in drawn) / 4000 == pytest.approx(0.98**50, abs=0.025)


def test_a_unit_that_records_no_silence_keeps_its_threshold(trained: Any) -> None:
    pair = trained("mlp", lambda: SelfNormalizedResets(initial_threshold_examples=150, threshold_every_updates=2))
    with torch.no_grad():
        for layer in pair.layers:
            pair.part.network.tensor(layer.bias.tensor).fill_(100.0)
    for step in range(4):
        pair.update(step)
    assert (pair.method.state["threshold"] == 150).all()


def test_thresholds_may_follow_tasks(trained: Any) -> None:
    settings = {"threshold_every_tasks": 2, "threshold_every_updates": 1, "initial_threshold_examples": 3}
    settings |= {"threshold_floor_examples": 0, "firing_level": 1e9}
    pair = trained("mlp", lambda: SelfNormalizedResets(**settings))
    seen = []
    for task in range(1, 5):
        pair.update(task, 1)
        pair.update(task, 1)
        pair.update(task, 1)
        pair.part.task_switch(task)
        seen.append(float(pair.method.state["threshold"][0]))
    # Two resets after silences of three each are all that is recorded; the first age with P(A >= a) = 0 is four, not below three.
    assert seen == [3.0, 6.0, 6.0, 12.0]


def test_batches_may_change_their_size(trained: Any) -> None:
    # Ages 4, 8, 18: the last batch, larger than any before, must not be slept through.
    pair = trained("mlp", lambda: FixedThresholdResets(threshold=18, firing_level=1e9))
    assert [int(pair.update(step, count)["method/units_reset"]) for step, count in enumerate([4, 4, 10, 17, 1])] == [
        0,
        0,
        13,
        0,
        13,
    ]


# A fixed threshold


@pytest.mark.parametrize(
    ("time", "threshold", "expected"), [("example", 18, [3, 6, 9]), ("example", 19, [4, 8]), ("step", 2, [2, 4, 6, 8])]
)
def test_fixed_threshold_by_hand(trained: Any, time: str, threshold: int, expected: list[int]) -> None:
    # Six examples per update, and no unit fires.
    pair = trained("mlp", lambda: FixedThresholdResets(threshold=threshold, unit_of_time=time, firing_level=1e9))
    assert [step for step in range(1, 10) if int(pair.update(step)["method/units_reset"])] == expected


def test_fixed_threshold_against_loops(trained: Any, layout: str) -> None:
    pair = trained(layout, lambda: FixedThresholdResets(threshold=12, firing_level=0.6))
    ages = {(layer.name, unit): 0 for layer in pair.layers for unit in range(layer.units)}
    resets = 0
    for step in range(1, 13):
        pair.update(step)
        chosen: dict[str, list[int]] = {layer.name: [] for layer in pair.layers}
        for layer in pair.layers:
            for unit in range(layer.units):
                ages[layer.name, unit] = 0 if any(pair.fires(layer, unit, 0.6)) else ages[layer.name, unit] + 6
                if ages[layer.name, unit] >= 12:
                    chosen[layer.name].append(unit)
                    ages[layer.name, unit] = 0
        resets += sum(map(len, chosen.values()))
        pair.assert_reset(chosen)
        assert pair.method.state["age"].tolist() == list(ages.values())
    assert resets > 3


def test_looking_less_often_resets_later(trained: Any) -> None:
    pair = trained("mlp", lambda: FixedThresholdResets(threshold=1, firing_level=1e9, check_every_updates=3))
    assert [int(pair.update(step)["method/units_reset"]) for step in range(1, 7)] == [0, 0, 13, 0, 0, 13]


# Refusals


@pytest.mark.parametrize("method", [SelfNormalizedResets, FixedThresholdResets])
@pytest.mark.parametrize("activation", ["tanh", "identity", "fourier"])
def test_activations_without_a_threshold_are_refused(
    monkeypatch: pytest.MonkeyPatch, trained: Any, method: Any, activation: str
) -> None:
    spec, *rest = trained.__init__.__globals__["LAYOUTS"]["mlp"]
    monkeypatch.setitem(
        trained.__init__.__globals__["LAYOUTS"], "other", (type(spec)(widths=[4], activations=[activation]), *rest)
    )
    with pytest.raises(
        ValueError, match=rf"intervention {method.name} counts when units fire, and activation {activation} has no"
    ):
        trained("other", method)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rejection_probability": 1.0}, r"self_normalized_resets\.rejection_probability=1\.0"),
        ({"fired": "most"}, r"fired=most is unknown; choose from any, fraction"),
        ({"estimator": "dense"}, r"estimator=dense is unknown; choose from histogram, exponential, ema"),
        ({"unit_of_time": "second"}, r"unit_of_time=second is unknown; choose from example, step"),
        ({"rule": "code"}, r"self_normalized_resets\.rule=code is unknown; choose from paper, published"),
        ({"initial_threshold_examples": 30_000}, r"initial_threshold_examples=30000 must be between 1 and 20000"),
        ({"threshold_floor_examples": 30_000}, r"threshold_floor_examples=30000 must be between 0 and 20000"),
        ({"move": "shrink"}, r"self_normalized_resets\.move=shrink is unknown; choose from contract, estimate"),
        ({"threshold_probability": 1.5}, r"self_normalized_resets\.threshold_probability=1\.5 must be between 0 and 1"),
        (
            {"threshold_probability": 0.5, "threshold_every_tasks": 2},
            r"threshold_probability=0\.5 must be 0 with threshold_every_tasks=2: a period ends by chance or by tasks",
        ),
        ({"expand": 0.5}, r"self_normalized_resets\.expand=0\.5 must be at least 1"),
        ({"bias": "keep"}, r"bias=keep is unknown; choose from zero, resample"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfNormalizedResets(**settings)


def test_a_negative_fixed_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fixed_threshold_resets\.threshold=-1 must be at least 0"):
        FixedThresholdResets(threshold=-1)
