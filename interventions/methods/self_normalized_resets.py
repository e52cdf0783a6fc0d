"""Self-normalized resets: units are reset when they are silent for longer than their own history makes likely."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Final

import torch
from torch import Tensor

from plasticity.interventions.base import Logs, Update, is_multiple
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.firing_laws import (
    exponential_percentile,
    geometric_percentile,
    geometric_time,
    next_threshold,
    percentile_of,
    silence_before,
    silence_bins,
)
from plasticity.interventions.surgery.silent_units import SilentUnitResets
from plasticity.settings.fields import require_range, setting

RULES: Final = ("paper", "published")
ESTIMATORS: Final = ("histogram", "exponential", "ema")
MOVES: Final = ("contract", "estimate")


@intervention("self_normalized_resets")
@dataclass
class SelfNormalizedResets(SilentUnitResets):
    """Resets units that are silent for longer than their own firing history makes likely (SNR).

    Paper: Farias & Jozefiak 2025, "Self-Normalized Resets for Plasticity in Continual Learning", algorithm 1.
    Equation: a_i <- 0 if unit i fires, else a_i + 1; reset at the first age with P(A_i >= a_i) <= eta, A_i being the unit's own
    silences: if a_i >= tau_i. A reset unit has fresh incoming weights, bias 0, outgoing weights 0, a_i = 0.
    Estimators of tau_i, at the end of each period, by contraction to the estimate if that is smaller, else times ``expand``
    (``move: estimate`` takes every estimate as it is), within [floor, cap]. ``histogram``: 1 + the 1 - eta quantile of recorded
    silences (those of length 0 left out, resets counted as ends of silences), since P(A >= q + 1) <= eta. ``exponential``:
    -ln(eta) / rate of firing, as in the authors' code for transformers. ``ema``: ln(eta) / ln(1 - p) for a running average p of
    firing, taken as it is; not the authors'.
    Published code: ``rule: published`` resets at the quantile itself, which is one update earlier, and lets tau fall to the floor
    where no silence was recorded (here it is kept). The paper's tables come from that code, with eta tuned for each problem. The
    floor of 100 examples is the code's, not the equation's: without it units that pause for a few examples are reset for ever.
    Code for transformers: it ends a period with each update by chance (``threshold_probability``, 1e-4 times a factor for the
    length of training), and starts the next with a count of 1, here with 0. Its second version counts the mean time between
    firings by single inputs of a batch and takes the percentile as it is; the paper does not describe this, and it is interpreted
    here as ``estimator: exponential``, ``fired: fraction``, ``move: estimate``: ``method=snr_second_version``.
    Deviations: the published code makes a separate forward pass, where these activations are of the training forward, before
    the step; periods are counted in updates, the authors' 16 tasks being 10,000 updates of 16 examples, unless
    ``threshold_every_tasks`` is set; silences are exact up to 2,047 updates, longer ones to a thirty-second, 8.7 kB per unit at
    the default cap; ``fraction`` is not the authors'.
    State: an age, a threshold and the estimator's records per unit, which are kept when units are reset. Optimizer: moments of
    every entry written are cleared and the step count kept, as published.
    Does not work with: networks without hidden units, activations without a threshold (refused). A CReLU unit fires whenever its
    input is not 0. With many examples per batch, ``any`` makes nearly every unit fire, and hardly anything is reset. Behind a
    layer normalisation a reset changes the whole layer. Target networks are left alone.

    Thresholds are set in examples for both units of time: divided by the examples of an update and rounded up, they are counts of
    updates.
    """

    rejection_probability: float = setting(
        0.01, "eta, one minus the percentile; 0 for no resets. The paper sweeps 0.08 to 0.00125.", low=0, below=1
    )
    rule: str = setting("paper", "``paper`` or ``published``, see above; for the histogram.", choices=RULES)
    fired: str = setting(
        "any",
        "What a batch on which the unit is active records: ``any``, one firing after the silent batches "
        "before it; or ``fraction``, a firing for each example (and position) on which it is, evenly spaced "
        "since the latest one.",
        choices=("any", "fraction"),
    )
    estimator: str = setting("histogram", "``histogram``, ``exponential`` or ``ema``.", choices=ESTIMATORS)
    threshold_every_updates: int = setting(10_000, "Period of the thresholds in updates, 0 for never.", low=0)
    threshold_every_tasks: int = setting(0, "Their period in announced tasks; 0 for the period in updates.", low=0)
    initial_threshold_examples: int = setting(20_000, "tau at the start, in examples.", low=1)
    threshold_floor_examples: int = setting(100, "Smallest tau, in examples; never less than one update.", low=0)
    threshold_cap_examples: int = setting(20_000, "Largest tau, in examples.", low=1, high=2**22)  # ages are whole float32
    threshold_probability: float = setting(
        0.0,
        "Probability that a period ends with an update, instead of periods of a fixed length; 0 for these.",
        low=0,
        high=1,
    )
    move: str = setting(
        "contract",
        "Where thresholds go: ``contract``, to the estimate if it is smaller, else times ``expand``; or ``estimate``. ``ema`` is "
        "always taken as it is.",
        choices=MOVES,
    )
    expand: float = setting(2.0, "Factor of a threshold that is not contracted.", low=1)
    decay: float = setting(0.999, "Decay per update of the running average of ``ema``.", low=0, below=1)

    no_effect: ClassVar = {"rejection_probability": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("initial_threshold_examples", 1), ("threshold_floor_examples", 0)):
            require_range(f"{self.name}.{name}", getattr(self, name), low, self.threshold_cap_examples)
        if self.threshold_probability and self.threshold_every_tasks:
            raise ValueError(
                f"{self.name}.threshold_probability={self.threshold_probability} must be 0 with "
                f"threshold_every_tasks={self.threshold_every_tasks}: a period ends by chance or by tasks"
            )

    def attach(self, u: Update) -> None:
        """Makes ages, thresholds and the estimator's records."""
        super().attach(u)
        records: dict[str, Tensor] = {}
        self._ends = silence_bins(self.threshold_cap_examples).to(u.generator.device)
        if self.estimator == "histogram":
            records["histogram"] = self._units.full(columns=self._ends.shape[0])
        elif self.estimator == "exponential":
            records |= {"firings": self._units.full(), "time": self._units.full()}
        else:
            records["rate"] = self._units.full()
        self._records = list(records.values())
        # The silences that end in one update and their weights; a histogram would be too costly in a compiled update.
        self._ended, self._weight = self._units.full(), self._units.full()
        self.state.update(records, tasks=0, bin_width=0.0)
        if self.threshold_probability:
            self._draw_period(u)

    def _recorded(self) -> list[Tensor]:
        """Returns the records, those of a histogram for one update."""
        return [self._ended, self._weight] if self.estimator == "histogram" else self._records

    def after_step(self, u: Update) -> Logs:
        """Resets the units that were silent for too long, and moves the thresholds at the end of a period."""
        self._note_length(u)
        if u.step == 1:  # only now is it known how many examples an update has
            self._threshold.fill_(self._in_units_of_time(self.initial_threshold_examples))
        if self.estimator == "histogram":
            self._widen_bins()
            self._enter(self._ended, self._weight)
        logs = self._reset_silent(u)
        if self._period_ends(u):
            logs |= self._move_thresholds(u.step)
        return logs

    def _period_ends(self, u: Update) -> bool:
        if not self.threshold_probability:
            return self.threshold_every_tasks == 0 and is_multiple(u.step, self.threshold_every_updates)
        if u.step < self.state["period_ends"]:
            return False
        self._draw_period(u)
        return True

    def _draw_period(self, u: Update) -> None:
        """Draws when the period that begins now will end: one number for all of it, so that the host seldom waits."""
        uniform = float(torch.rand((), generator=u.generator, device=u.generator.device))
        self.state["period_ends"] = u.step + geometric_time(uniform, self.threshold_probability)

    def task_switch(self, u: Update, task: int) -> Logs:
        """Moves the thresholds at the end of a period of tasks."""
        self.state["tasks"] += 1
        return self._move_thresholds(u.step) if is_multiple(self.state["tasks"], self.threshold_every_tasks) else {}

    @torch.no_grad()
    def _move_thresholds(self, step: int) -> Logs:
        if self._never() or step == 0:
            return {}
        eta, known = self.rejection_probability, torch.ones_like(self._age, dtype=torch.bool)
        if self.estimator == "ema":
            # Without "any" the average is of examples, each one unit of time long.
            length = self.state["time_per_update"] if self.fired == "any" else 1.0
            moved = geometric_percentile(self._records[0] / (1 - self.decay**step), eta) * length
        else:
            if self.estimator == "histogram":
                estimate, known = self._quantile()
            else:
                firings, time = self._records
                estimate, known = exponential_percentile(firings, time, eta), firings > 0
            moved = estimate if self.move == "estimate" else next_threshold(self._threshold, estimate, self.expand)
            for record in self._records:
                record.zero_()
        floor, cap = map(self._in_units_of_time, (self.threshold_floor_examples, self.threshold_cap_examples))
        moved = moved.clamp(max(floor, self.state["time_per_update"]), cap)
        self._threshold.copy_(torch.where(known, moved, self._threshold))
        self._next_check = 0.0
        return {"threshold": self._threshold.mean()}

    def _quantile(self) -> tuple[Tensor, Tensor]:
        """Returns the age at which each unit is to be reset by its records, and whether there are any."""
        silence, known = percentile_of(self._records[0], self._ends, self.rejection_probability)
        silence = silence * self.state["bin_width"]
        if self.rule == "paper":
            return silence + 1, known
        return torch.where(known, silence, 0.0), torch.ones_like(known)

    def _in_units_of_time(self, examples: int) -> float:
        """Returns examples in units of time, rounded up."""
        return float(examples if self.unit_of_time == "example" else ceil(examples / self.state["examples_per_update"]))

    def _first_threshold(self) -> float:
        return float(self.initial_threshold_examples)

    def _never(self) -> bool:
        return self.rejection_probability == 0

    def _counts(self) -> bool:
        return self.fired == "fraction"

    def _record(self, fired: Tensor, time: float, age: Tensor, recorded: Sequence[Tensor]) -> None:
        share = fired.float()
        if self.estimator == "ema":
            recorded[0].lerp_(share, 1 - self.decay)
            return
        weight = share * time if self._counts() else share
        if self.estimator == "exponential":
            recorded[0].add_(weight)
            recorded[1].add_((age + time) * (share > 0))
            return
        recorded[0].copy_(silence_before(age, share, time) if self._counts() else age)
        recorded[1].copy_(weight)

    def _widen_bins(self) -> None:
        """Makes a bin as wide as an update, whose silences are all multiples of it, and drops the records of narrower ones."""
        width = 1.0 if self._counts() else self.state["time_per_update"]
        if width != self.state["bin_width"]:
            self.state["bin_width"] = width
            self._records[0].zero_()

    def _enter(self, silence: Tensor, weight: Tensor) -> None:
        """Adds a weight to the bin of each unit's silence."""
        bins = torch.bucketize(silence / self.state["bin_width"], self._ends)
        self._records[0].scatter_add_(1, bins.unsqueeze(1), weight.unsqueeze(1))

    def _record_resets(self, mask: Tensor) -> None:
        if self.estimator == "histogram":
            self._enter(self._age, mask.float())
        elif self.estimator == "exponential":
            self._records[0].add_(mask)
            self._records[1].add_(self._age * mask)
