import math
import weakref
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from plasticity.metrics.log_values import Array, Histogram, Series
from plasticity.metrics.undefined import Undefined
from plasticity.training.tracking.tracker import Tracker


class Tape:
    """A writer that remembers what it was given."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float], dict[str, Histogram | Series]]] = []
        self.flushed = 0
        self.closed = False

    def write(self, step: int, scalars: Mapping[str, float], rich: Mapping[str, Histogram | Series]) -> None:
        self.lines.append((step, dict(scalars), dict(rich)))

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True

    def points(self, name: str) -> list[tuple[int, float]]:
        return [(step, scalars[name]) for step, scalars, _ in self.lines if name in scalars]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_scalars_are_averaged_over_the_interval_and_then_forgotten():
    tape = Tape()
    tracker = Tracker([tape], every_steps=3)
    for step, loss in enumerate([1.0, 2.0, 6.0, 10.0, 20.0, 60.0], start=1):
        tracker.write(step, {"train/loss": torch.tensor(loss), "plain": loss / 2})
    assert tape.points("train/loss") == [(3, 3.0), (6, 30.0)]
    assert tape.points("plain") == [(3, 1.5), (6, 15.0)]


def test_the_mean_is_taken_in_float64():
    tape = Tape()
    tracker = Tracker([tape], every_steps=3)
    for step, value in enumerate([2.0**25, 1.0, 1.0], start=1):  # float32 would lose the ones: 2^25 + 1 == 2^25
        tracker.write(step, {"x": torch.tensor(value)})
    assert tape.points("x") == [(3, (2.0**25 + 2.0) / 3)]


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_it_writes_equally_often_at_every_stride(stride):
    tape = Tape()
    tracker = Tracker([tape], every_steps=10)
    for step in range(stride, 240 + 1, stride):
        tracker.write(step, {"x": 1.0})
    assert len(tape.points("x")) == 24


def test_a_stride_longer_than_the_interval_writes_once_per_step():
    tape = Tape()
    tracker = Tracker([tape], every_steps=10)
    for step in (25, 50, 75):
        tracker.write(step, {"x": float(step)})
    assert tape.points("x") == [(25, 25.0), (50, 50.0), (75, 75.0)]


def test_measurements_are_written_once_at_their_own_step():
    tape = Tape()
    tracker = Tracker([tape], every_steps=10)
    for step in range(1, 21):
        measured = {"probe/loss": torch.tensor(float(step))} if step in (4, 10, 13) else {}
        tracker.write(step, {"train/loss": 1.0}, measured)
    assert tape.points("probe/loss") == [(4, 4.0), (10, 10.0), (13, 13.0)]
    assert [step for step, _ in tape.points("train/loss")] == [10, 20]
    assert [step for step, *_ in tape.lines] == [4, 10, 13, 20]


def test_measurements_can_precede_the_first_step():
    tape = Tape()
    Tracker([tape], every_steps=10).write(0, {}, {"plasticity/srank": 7.0})
    assert tape.lines == [(0, {"plasticity/srank": 7.0}, {})]


def test_a_name_is_either_averaged_or_measured():
    tracker = Tracker([Tape()], every_steps=1)
    with pytest.raises(ValueError, match="redo/units_reset is logged by a step and by an observer"):
        tracker.write(1, {"redo/units_reset": 1.0}, {"redo/units_reset": 2.0})


def test_returns_are_averaged_over_episodes_and_omitted_where_none_ended():
    tape = Tape()
    tracker = Tracker([tape], every_steps=3)
    ended: list[Tensor] = [torch.tensor([1.0, 2.0]), torch.tensor([]), torch.tensor([9.0])]
    for step, returns in enumerate([*ended, torch.tensor([]), torch.tensor([]), torch.tensor([])], start=1):
        tracker.write(step, {"rollout/return": returns})
    assert tape.points("rollout/return") == [(3, 4.0)]  # (1 + 2 + 9) / 3, not the mean of two means
    assert [step for step, *_ in tape.lines] == [3, 6]


def test_names_that_come_now_and_then_are_averaged_over_the_times_they_came():
    tape = Tape()
    tracker = Tracker([tape], every_steps=4)
    for step, logs in enumerate([{}, {"x": 2.0}, {}, {"x": 4.0}], start=1):
        tracker.write(step, logs)
    assert tape.points("x") == [(4, 3.0)]


def test_an_undefined_value_is_written_as_nan_and_its_reason_once(tmp_path):
    tape, texts = Tape(), []
    tracker = Tracker([tape], 10, notes=tmp_path / "notes.log", text=lambda *note: texts.append(note))
    for step in (5, 6):
        tracker.write(step, {}, {"plasticity/srank": Undefined("all features are zero"), "plasticity/ok": 1.0})
    assert [step for step, value in tape.points("plasticity/srank") if math.isnan(value)] == [5, 6]
    assert (tmp_path / "notes.log").read_text() == "step 5: plasticity/srank: all features are zero\n"
    assert texts == [("notes", "- `plasticity/srank`: all features are zero", 5)]


def test_undefined_values_do_not_spoil_the_mean_of_defined_ones():
    tape = Tape()
    tracker = Tracker([tape], every_steps=2)
    tracker.write(1, {"x": Undefined("no unit is old enough"), "y": Undefined("no unit is old enough")})
    tracker.write(2, {"x": 3.0, "y": Undefined("no unit is old enough")})
    assert tape.points("x") == [(2, 3.0)]
    assert math.isnan(tape.points("y")[0][1])


def test_a_plain_nan_is_not_hidden():
    tape = Tape()
    tracker = Tracker([tape], every_steps=2)
    tracker.write(1, {"train/loss": torch.tensor(float("nan"))})
    tracker.write(2, {"train/loss": torch.tensor(1.0)})
    assert math.isnan(tape.points("train/loss")[0][1])


def test_histograms_and_series_reach_the_writers():
    tape = Tape()
    tracker = Tracker([tape], every_steps=2)
    series = Series(torch.arange(2.0), {"probe": torch.ones(2)}, "update", "loss")
    first, second = Histogram(torch.zeros(3)), Histogram(torch.ones(3))
    tracker.write(1, {"cbp/ages": first}, {"probe/curve": series})
    tracker.write(2, {"cbp/ages": second})
    assert tape.lines[0] == (1, {}, {"probe/curve": series})
    assert tape.lines[1][2]["cbp/ages"] is second


def test_speed_leaves_out_pauses():
    clock, tape = Clock(), Tape()
    tracker = Tracker([tape], every_steps=10, clock=clock)
    clock.now += 50.0
    with tracker:  # building the run before the loop does not count
        for step in range(1, 21):
            clock.now += 0.5 if step <= 10 else 0.25
            if step == 3:
                with tracker.paused(), tracker.paused():
                    clock.now += 100.0
            tracker.write(step, {})
    assert tape.points("time/steps_per_second") == [(10, 2.0), (20, 4.0)]
    assert tracker.latest["time/steps_per_second"] == 4.0


def test_the_speed_of_the_last_interval_is_written_when_the_run_is_over():
    clock, tape = Clock(), Tape()
    tracker = Tracker([tape], every_steps=10, clock=clock)
    for step in range(1, 13):
        clock.now += 0.5 if step <= 10 else 2.0
        tracker.write(step, {"x": 1.0})
    tracker.finish()
    assert tape.points("time/steps_per_second") == [(10, 2.0), (12, 0.5)]


def test_a_progress_bar_is_told_of_every_step():
    steps: list[int] = []
    tracker = Tracker([], every_steps=100, moved=steps.append)
    for step in (4, 8, 12):
        tracker.write(step, {})
    assert steps == [4, 8, 12]


def test_speed_between_two_lines():
    clock = Clock()
    tracker = Tracker([], every_steps=100, clock=clock)
    assert math.isnan(tracker.steps_per_second)
    clock.now += 4.0
    tracker.write(8, {})
    assert tracker.steps_per_second == 2.0


def test_latest_holds_the_last_written_value_of_each_name():
    tracker = Tracker([], every_steps=2)
    tracker.write(1, {"x": 1.0}, {"probe/loss": torch.tensor(0.5)})
    assert tracker.latest == {"probe/loss": 0.5}
    tracker.write(2, {"x": 3.0})
    assert tracker.latest["x"] == 2.0
    assert tracker.latest["probe/loss"] == 0.5


def test_finish_writes_the_unfinished_interval_once():
    tape = Tape()
    tracker = Tracker([tape], every_steps=10)
    for step in range(1, 13):
        tracker.write(step, {"x": float(step)})
    tracker.finish()
    tracker.finish()
    assert tape.points("x") == [(10, 5.5), (12, 11.5)]


def test_closing_writes_nothing_and_closes_every_writer():
    tapes = [Tape(), Tape()]
    with Tracker(tapes, every_steps=10) as tracker:
        tracker.write(1, {"x": 1.0})
        tracker.flush()
    assert [(tape.lines, tape.flushed, tape.closed) for tape in tapes] == [([], 1, True)] * 2


def test_a_writer_that_cannot_close_leaves_no_other_open():
    class Broken(Tape):
        def close(self) -> None:
            raise OSError("no space left")

    tape = Tape()
    with pytest.raises(OSError, match="no space left"):
        Tracker([Broken(), tape], every_steps=10).close()
    assert tape.closed


def logs_at(step: int) -> dict[str, Tensor | float | Histogram]:
    generator = torch.Generator().manual_seed(step)
    logs: dict[str, Tensor | float | Histogram] = {
        "loss": torch.rand((), generator=generator),
        "float": math.sin(step) * 1e3,  # its sum depends on the order in which it is taken
        "rollout/return": torch.rand(step % 3, generator=generator),
        "histogram": Histogram(torch.rand(4, generator=generator)),
    }
    return logs | ({"undefined": Undefined("never")} if step % 2 else {})


@pytest.mark.parametrize("interrupted_at", [1, 7, 1500, 2400])
def test_a_resumed_tracker_writes_what_the_uninterrupted_one_writes(tmp_path, interrupted_at):
    every = 10 if interrupted_at < 10 else 2500  # the long interval is longer than what is kept unsummed
    whole, parts = Tape(), Tape()
    tracker = Tracker([whole], every, notes=tmp_path / "whole.log")
    for step in range(1, 2 * every + 1):
        tracker.write(step, logs_at(step))
    first = Tracker([parts], every, notes=tmp_path / "parts.log")
    for step in range(1, interrupted_at + 1):
        first.write(step, logs_at(step))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Tracker([parts], every, notes=tmp_path / "parts.log")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(interrupted_at + 1, 2 * every + 1):
        second.write(step, logs_at(step))
    assert [step for step, *_ in parts.lines] == [step for step, *_ in whole.lines] == [every, 2 * every]
    for (_, scalars, rich), (_, scalars_again, rich_again) in zip(whole.lines, parts.lines, strict=True):
        del scalars["time/steps_per_second"], scalars_again["time/steps_per_second"]
        assert repr(scalars) == repr(scalars_again)  # repr: nan equals nan, and every bit of a float counts
        assert torch.equal(rich["histogram"].values, rich_again["histogram"].values)
    assert (tmp_path / "whole.log").read_text() == (tmp_path / "parts.log").read_text()


def test_saving_does_not_change_what_is_written():
    tapes = [Tape(), Tape()]
    trackers = [Tracker([tape], every_steps=50) for tape in tapes]
    for step in range(1, 51):
        for tracker in trackers:
            tracker.write(step, logs_at(step))
        if step % 7 == 0:
            trackers[1].state_dict()
    assert tapes[0].points("loss") == tapes[1].points("loss")
    assert tapes[0].points("float") == tapes[1].points("float")


def test_long_intervals_do_not_keep_every_tensor_alive():
    tracker = Tracker([], every_steps=10**9)
    references = []
    for step in range(1, 3001):
        value = torch.tensor(1.0)
        references.append(weakref.ref(value))
        tracker.write(step, {"x": value})
    del value
    assert sum(reference() is not None for reference in references) <= 1024


def test_a_note_known_from_before_a_kill_is_not_repeated_in_the_file(tmp_path):
    for _ in range(2):  # the second tracker stands for a run resumed from before the note
        tracker = Tracker([], 10, notes=tmp_path / "notes.log")
        tracker.write(5, {}, {"x": Undefined("why")})
    assert (tmp_path / "notes.log").read_text() == "step 5: x: why\n"


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ({"x": torch.zeros(2, 2)}, "x has more than one axis"),
        ({"x": torch.zeros(1, 2), "y": 1.0}, "x has more than one axis"),
        ({"x": torch.ones((), requires_grad=True) * 2}, "x carries a gradient graph"),
    ],
)
def test_values_that_cannot_be_averaged_are_refused_by_name(logs, message):
    with pytest.raises(ValueError, match=message):
        Tracker([], every_steps=1).write(1, logs)


def test_a_measured_tensor_has_two_axes_at_most():
    with pytest.raises(ValueError, match=r"rates has shape \(2, 1, 2\)"):
        Tracker([], every_steps=5).write(1, {}, {"rates": torch.zeros(2, 1, 2)})


def test_measured_tensors_of_more_than_one_number_are_arrays():
    tape = Tape()
    matrix, row = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0, 6.0], requires_grad=True)
    Tracker([tape], every_steps=10).write(7, {}, {"m": matrix, "r": row, "one": torch.tensor([[8.0]])})
    ((step, scalars, rich),) = tape.lines
    assert (step, scalars, list(rich)) == (7, {"one": 8.0}, ["m", "r"])
    assert all(isinstance(value, Array) for value in rich.values())
    assert torch.equal(rich["m"].values, matrix)
    assert not rich["r"].values.requires_grad


def test_the_interval_is_at_least_one_step():
    with pytest.raises(ValueError, match="every_steps=0"):
        Tracker([], every_steps=0)


def test_a_note_is_written_once_also_in_a_run_that_goes_on(tmp_path):
    texts = []
    path = tmp_path / "notes.log"
    tracker = Tracker([], 10, notes=path, text=lambda *note: texts.append(note))
    tracker.note("evaluation", "policy=greedy")
    tracker.note("evaluation", "policy=greedy")
    tracker.write(7, {})
    resumed = Tracker([], 10, notes=path, text=lambda *note: texts.append(note))
    resumed.load_state_dict(tracker.state_dict())
    resumed.note("evaluation", "policy=greedy")
    resumed.note("evaluation", "policy=sampled")
    assert path.read_text() == "step 0: evaluation: policy=greedy\nstep 7: evaluation: policy=sampled\n"
    assert texts == [("notes", "- `evaluation`: policy=greedy", 0), ("notes", "- `evaluation`: policy=sampled", 7)]
