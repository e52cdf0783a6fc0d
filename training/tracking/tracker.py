"""What a run writes down: per-step logs averaged over intervals, measurements at the step they were taken.

The loop calls :meth:`Tracker.write` on every step. That call appends to lists and nothing more; tensors become floats only
when a line is written, once per interval.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from plasticity.metrics.log_values import RICH, Array, Rich, Value
from plasticity.metrics.undefined import Undefined
from plasticity.updates.compile_cache import CLOCK

STEPS_PER_SECOND = "time/steps_per_second"
COMPILE_SECONDS = "time/compile_seconds"
_FOLD_EVERY_WRITES = 1024  # bounds the tensors kept alive when the interval is long
_NOTHING: Mapping[str, Value] = MappingProxyType({})


class Writer(Protocol):
    """A place where values go: a file, TensorBoard, a test's list."""

    def write(self, step: int, scalars: Mapping[str, float], rich: Mapping[str, Rich]) -> None:
        """Writes the values of one step. ``nan`` is a value and is written as such."""

    def flush(self) -> None:
        """Returns once everything written so far has left this process."""

    def close(self) -> None:
        """Flushes and releases the file. Nothing may be written afterwards."""


class IntervalMeans:
    """Means of per-step values since the last :meth:`drain`, computed in float64 on the CPU.

    A value is a number, a 0-dim tensor, or a 1-D tensor of several samples (returns of the episodes that ended in this step;
    it may be empty). The mean is over samples. :class:`Undefined` values are left out of the mean; a name with nothing but
    undefined values is undefined. Of histograms, series and images the newest is kept. Tensors are held until the next fold, so
    they must be detached and must not be changed in place afterwards.
    """

    def __init__(self) -> None:
        self._pending: defaultdict[str, list[Value]] = defaultdict(list)
        self._writes = 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._undefined: dict[str, str] = {}
        self._rich: dict[str, Rich] = {}

    def add(self, logs: Mapping[str, Value]) -> None:
        """Remembers one step's values; no arithmetic and no host synchronisation, except in every 1,024th call."""
        for name, value in logs.items():
            self._pending[name].append(value)
        self._writes += 1
        if self._writes == _FOLD_EVERY_WRITES:
            self._fold()

    def drain(self) -> dict[str, Value]:
        """Returns the mean (or newest histogram or series) of every name logged since the last drain, and clears them."""
        self._fold()
        values: dict[str, Value] = {name: Undefined(reason) for name, reason in self._undefined.items()}
        values |= {name: self._sums[name] / count for name, count in self._counts.items()}
        values |= self._rich
        for store in (self._sums, self._counts, self._undefined, self._rich):
            store.clear()
        return values

    def state_dict(self) -> dict[str, Any]:
        """Returns the unfinished interval in plain containers."""
        self._compact()
        return {
            "pending": {name: values[0] for name, values in self._pending.items()},
            "writes": self._writes,
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "undefined": dict(self._undefined),
            "rich": {name: (type(value).__name__, *value) for name, value in self._rich.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back an unfinished interval; its means come out bit for bit as if it had never been saved."""
        self._pending.clear()
        self._pending.update({name: [samples] for name, samples in state["pending"].items()})
        self._writes = state["writes"]
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
        self._undefined = dict(state["undefined"])
        self._rich = {name: RICH[kind](*fields) for name, (kind, *fields) in state["rich"].items()}

    def _fold(self) -> None:
        self._compact()
        for name, (samples,) in self._pending.items():
            assert isinstance(samples, Tensor)
            if len(samples):
                self._sums[name] = self._sums.get(name, 0.0) + samples.sum().item()
                self._counts[name] = self._counts.get(name, 0) + len(samples)
        self._pending.clear()
        self._writes = 0

    def _compact(self) -> None:
        """Turns each name's list into one tensor of samples. Order is kept, so a later sum does not depend on this call."""
        for name, values in self._pending.items():
            if not {Tensor, float}.issuperset(map(type, values)):  # a pass in C: this runs over every value of every step
                values = [value for value in values if self._is_number(name, value)]
            self._pending[name] = [_samples(name, values)]  # type: ignore[arg-type]

    def _is_number(self, name: str, value: Value) -> bool:
        """Stores a value that has no mean separately, and returns whether the value has one."""
        if isinstance(value, Undefined):
            self._undefined[name] = value.reason
        elif isinstance(value, Rich):
            self._rich[name] = value
        else:
            return True
        return False


class Tracker:
    """Averages per-step logs over intervals of ``every_steps`` and passes them, and measurements, to the writers.

    An interval ends with the first step at or past a multiple of ``every_steps``, for any stride of the loop; strides longer
    than the interval write once a step. ``time/steps_per_second`` is added at each interval's end, that of a run's last one
    too, and ``time/compile_seconds`` to every step in which something was compiled.

    Args:
        writers: Where values go, in this order.
        every_steps: Interval length in the stream's steps, at least 1.
        notes: File that receives one line for each name that could not be computed, with the reason.
        text: Called as ``text(tag, markdown, step)`` with the same notes.
        moved: Called with the step after every one, before anything of it is written: a progress bar.
        clock: Seconds, monotonic.

    Attributes:
        latest: The last value written under each name.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        every_steps: int,
        *,
        notes: Path | None = None,
        text: Callable[[str, str, int], None] | None = None,
        moved: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if every_steps < 1:
            raise ValueError(f"every_steps={every_steps}: the tracking interval must be at least 1 step")
        self.latest: dict[str, float] = {}
        self._writers = tuple(writers)
        self._every_steps = every_steps
        self._notes = notes
        self._text = text
        self._moved = moved
        self._noted: set[str] = set()
        self._means = IntervalMeans()
        self._step = 0
        self._clock = clock
        self._pause_depth = 0
        self._compiled = CLOCK.seconds
        self._restart_clock()

    def write(self, step: int, logs: Mapping[str, Value], measurements: Mapping[str, Value] = _NOTHING) -> None:
        """Takes what one step produced. Called on every step.

        Args:
            step: The stream's step after this one; never decreases.
            logs: Per-step values, averaged over the interval (see :class:`IntervalMeans`).
            measurements: Observers' values, written once, now, unaveraged. A name belongs to one side or the other. A tensor of
                more than one number is written as an ``Array``.

        Raises:
            ValueError: A name is both averaged and measured, or a value has more than two axes.
        """
        if CLOCK.seconds > self._compiled:
            self._write_compiling(step)
        self._means.add(logs)
        interval_ended = step // self._every_steps > self._step // self._every_steps
        self._step = step
        if self._moved is not None:
            self._moved(step)
        if interval_ended:
            self._emit(step, measurements, self._end_interval())
        elif measurements:
            self._emit(step, measurements, {})

    def write_measured(self, step: int, measurements: Mapping[str, Value]) -> None:
        """Writes observers' values of a step whose ``write`` has been called already, or of the start of the run."""
        self._emit(step, measurements, {})

    def note(self, name: str, line: str) -> None:
        """Writes a line about ``name`` into the notes, once in a run, even if it is stopped and resumed."""
        known = f"{name}: {line}"
        if known not in self._noted:
            self._noted.add(known)
            self._tell({name: line}, self._step)

    def remark(self, name: str, line: str) -> None:
        """Writes a line about ``name`` into the notes without remembering it: for what differs from one process to the next."""
        self._tell({name: line}, self._step)

    def finish(self) -> None:
        """Writes the unfinished interval at the last step. For a run that is over, not for one that will be resumed."""
        values = self._means.drain()
        if values:
            values[STEPS_PER_SECOND] = self.steps_per_second
            self._emit(self._step, _NOTHING, values)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the time spent inside (probes, evaluation, checkpoints) out of ``time/steps_per_second``."""
        started = self._clock()
        self._pause_depth += 1
        try:
            yield
        finally:
            self._pause_depth -= 1
            if self._pause_depth == 0:
                self._paused_seconds += self._clock() - started

    @property
    def steps_per_second(self) -> float:
        """Steps per second since the last interval ended, pauses excluded; ``Undefined`` before the first step."""
        seconds = self._clock() - self._started - self._paused_seconds
        steps = self._step - self._started_step
        return steps / seconds if steps and seconds > 0 else Undefined("no step has been timed yet")

    def flush(self) -> None:
        """Flushes every writer. Call it before a checkpoint, so that what precedes the checkpoint is on disk with it."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Closes every writer. An unfinished interval is not written: the checkpoint holds it (see :meth:`finish`)."""
        with ExitStack() as stack:  # what one of them raises does not keep the others open
            for writer in reversed(self._writers):
                stack.callback(writer.close)

    def __enter__(self) -> Self:
        self._restart_clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns the unfinished interval, the last values and the names already noted, in plain containers."""
        return {
            "step": self._step,
            "means": self._means.state_dict(),
            "latest": dict(self.latest),
            "noted": sorted(self._noted),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the saved interval. Values written later equal the uninterrupted run's, except ``time/*``."""
        self._step = state["step"]
        self._means.load_state_dict(state["means"])
        self.latest = dict(state["latest"])
        self._noted = set(state["noted"])
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._started = self._clock()
        self._started_step = self._step
        self._paused_seconds = 0.0

    def _end_interval(self) -> dict[str, Value]:
        values = self._means.drain()
        values[STEPS_PER_SECOND] = self.steps_per_second
        self._restart_clock()
        return values

    def _write_compiling(self, step: int) -> None:
        """Writes what the process spent on compiling since the last time, and keeps it out of the speed."""
        seconds, self._compiled = CLOCK.seconds - self._compiled, CLOCK.seconds
        self._paused_seconds += seconds
        self._emit(step, {COMPILE_SECONDS: seconds}, {})

    def _emit(self, step: int, measurements: Mapping[str, Value], averaged: Mapping[str, Value]) -> None:
        for name in measurements.keys() & averaged.keys():
            raise ValueError(f"{name} is logged by a step and by an observer: the two need different names")
        values = {**averaged, **{name: _measured(name, value) for name, value in measurements.items()}}
        rich = {name: value for name, value in sorted(values.items()) if isinstance(value, Rich)}
        scalars = {name: float(value) for name, value in sorted(values.items()) if not isinstance(value, Rich)}
        with self.paused():  # figures take longer to draw than many steps
            for writer in self._writers:
                writer.write(step, scalars, rich)
        self.latest.update(scalars)
        self._note(step, values)

    def _note(self, step: int, values: Mapping[str, Value]) -> None:
        reasons = {n: v.reason for n, v in sorted(values.items()) if isinstance(v, Undefined) and n not in self._noted}
        if not reasons:
            return
        self._noted.update(reasons)
        self._tell(reasons, step)

    def _tell(self, lines: Mapping[str, str], step: int) -> None:
        if self._text is not None:
            self._text("notes", "\n".join(f"- `{name}`: {line}" for name, line in lines.items()), step)
        if self._notes is not None:
            _append_new_lines(self._notes, [f"step {step}: {name}: {line}" for name, line in lines.items()])


def _samples(name: str, values: Sequence[Tensor | float]) -> Tensor:
    """Returns the values as one float64 tensor on the CPU, shape (samples,), in order."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return torch.tensor(values, dtype=torch.float64)
    if max(map(Tensor.dim, tensors)) > 1:
        raise ValueError(f"{name} has more than one axis: a logged tensor is 0-dim, or 1-D with one entry per sample")
    try:
        joined = torch.stack(values)  # type: ignore[arg-type]  # one transfer for the whole interval
    except (TypeError, RuntimeError):  # not all of them tensors, or not of one shape, or not on one device
        joined = torch.cat([torch.as_tensor(value, dtype=torch.float64, device="cpu").reshape(-1) for value in values])
    if joined.requires_grad:
        raise ValueError(f"{name} carries a gradient graph, which logging would keep alive: log it detached")
    return joined.to("cpu", torch.float64).reshape(-1)


def _measured(name: str, value: Value) -> Value:
    if not isinstance(value, Tensor) or value.numel() == 1:
        return value
    if value.dim() > 2:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: a measured tensor has two axes at most")
    return Array(value.detach())


def _append_new_lines(path: Path, lines: Sequence[str]) -> None:
    """Appends the lines that the file does not hold yet: a resumed run meets the same reasons again."""
    known = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines if line not in known)
