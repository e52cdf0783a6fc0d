"""Times inference, backpropagation and an epoch by method and size of the minibatch: ``python -m benchmarks.running_times``.

The rows of table 2 of the thesis on resets adapted to the activation. Prints a table; with ``--page`` it also writes a page.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Final, NamedTuple

from plasticity.agents.agent import learn_from
from plasticity.agents.supervised.agent import SupervisedLearner
from plasticity.envs.experience import Examples
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.training.assembly import assemble
from plasticity.training.config.parsing import Train, parse
from plasticity.training.reports.output.elements import definitions, section
from plasticity.training.reports.output.page import template
from plasticity.training.reports.output.tables import Table, to_html, to_markdown
from plasticity.training.reports.output.writing import PAGE, REPORT, claim, write_page, write_tables
from plasticity.training.saving.provenance import provenance

Clock = Callable[[], float]

METHODS: Final = ("none", "cbp_nature", "relu_strategy", "tanh_strategy")
BATCHES: Final = (1, 10, 100)
_CLOCKS: Final[dict[str, Clock]] = {"wall": time.perf_counter, "processor": time.process_time}
_EXPERIMENT: Final = "experiment=online_permuted_mnist"
_PUBLISHED: Final = {  # thesis, table 2: seconds for an epoch of 10,000 images, mean and sd of three seeds
    ("none", 1): "8.11 ± 0.15",
    ("none", 10): "1.54 ± 0.01",
    ("none", 100): "0.30 ± 0.03",
    ("cbp_nature", 1): "20.77 ± 5.02",
    ("cbp_nature", 10): "1.77 ± 0.02",
    ("cbp_nature", 100): "0.30 ± 0.01",
    ("relu_strategy", 1): "16.05 ± 0.15",
    ("relu_strategy", 10): "1.88 ± 0.04",
    ("relu_strategy", 100): "0.39 ± 0.08",
}
_NOTE: Final = (
    "Mean and standard deviation over {rounds} repeats, in each of which every method had its turn. Inference: the outputs for "
    "one minibatch, without gradients. Backpropagation: what the update on a minibatch takes in addition: gradients, the "
    "optimizer's step and the method. Epoch: all {examples} examples once, reading them included. Ratio: the epoch over that of "
    "{baseline}, the median over repeats. {clock} time on one thread."
)
_OF_THE_PAPER: Final = (
    " Thesis: an epoch on its machine, table 2; its times of single passes are left out, because the nanoseconds printed there "
    "do not add up to its epochs."
)


class Times(NamedTuple):
    """What one epoch took.

    Attributes:
        inference: Seconds for the outputs of one minibatch, the mean over all of them.
        backpropagation: Seconds that an update on one takes beyond that, the mean.
        epoch: Seconds for all examples, without the separate inference.
    """

    inference: float
    backpropagation: float
    epoch: float


class Epoch:
    """Goes through all examples of a task, and times it.

    Args:
        words: Settings of the run.
        clock: In seconds.

    Raises:
        ValueError: If the words do not fit together, or the run does not learn from a data stream.
    """

    def __init__(self, words: Sequence[str], clock: Clock) -> None:
        command = parse(words)
        if not isinstance(command, Train):
            raise ValueError(f"{' '.join(words)} is not one run")
        agent, stream, _ = assemble(command.plan)
        if not isinstance(agent, SupervisedLearner) or not isinstance(stream, TaskStream):
            raise ValueError("running times are those of agent=supervised on a data stream")
        self._agent, self._stream, self._clock = agent, stream, clock

    @property
    def minibatches(self) -> int:
        """Of the task that comes next."""
        return self._stream.minibatches(self._stream.task)

    @property
    def parameters(self) -> int:
        """Of the network."""
        return sum(value.numel() for value in self._agent.learner.network.parameters())

    def run(self) -> Times:
        """Learns from one task; returns the times."""
        count, inference, update, epoch = self.minibatches, 0.0, 0.0, 0.0
        clock = self._clock
        for _ in range(count):
            begun = clock()
            task = self._stream.task
            experience = self._stream.advance(self._agent.act)
            if experience.task != task:
                self._agent.switch_task(experience.task)
            read = clock()
            assert isinstance(experience.batch, Examples)
            self._agent.act(experience.batch.inputs)
            predicted = clock()
            learn_from(self._agent, experience, self._stream.step)
            learned = clock()
            inference += predicted - read
            update += learned - predicted
            epoch += read - begun + learned - predicted
        return Times(inference / count, (update - inference) / count, epoch)


def measure(methods: Sequence[str], batches: Sequence[int], rounds: int, clock: Clock, words: Sequence[str]) -> dict[str, Any]:
    """Times every method at every size, the methods in turn.

    Args:
        methods: Names; the first is what ratios refer to.
        batches: Examples in a minibatch.
        rounds: Repeats that count, after one that does not; 2 or more.
        clock: In seconds.
        words: More settings of the runs.

    Returns:
        ``rows`` with batch, method and the times of each repeat; ``parameters`` of the network.
    """
    rows, parameters = [], 0
    for batch in batches:
        epochs = {name: Epoch([_EXPERIMENT, f"method={name}", f"env.batch_size={batch}", *words], clock) for name in methods}
        times: dict[str, list[Times]] = {name: [] for name in methods}
        for round_ in range(rounds + 1):
            for name, epoch in epochs.items():
                taken = epoch.run()
                if round_ > 0:
                    times[name].append(taken)
        rows += [{"batch": batch, "method": name, "times": times[name]} for name in methods]
        parameters = next(iter(epochs.values())).parameters
    return {"rows": rows, "parameters": parameters}


def summary(row: Mapping[str, Any], first: Sequence[Times]) -> list[str]:
    """Returns the cells of a row: inference and backpropagation in microseconds, epoch in seconds, ratio to the first's."""
    times: Sequence[Times] = row["times"]
    ratio = median(mine.epoch / other.epoch for mine, other in zip(times, first, strict=True))
    micro = [[1e6 * each for each in column] for column in (_column(times, "inference"), _column(times, "backpropagation"))]
    cells = [f"{fmean(column):.1f} ± {stdev(column):.1f}" for column in micro]
    epochs = _column(times, "epoch")
    return [*cells, f"{fmean(epochs):.2f} ± {stdev(epochs):.2f}", f"{ratio:.2f}"]


def table_of(measured: Mapping[str, Any], rounds: int, clock: str, examples: int, published: bool) -> Table:
    """Returns the table.

    Args:
        measured: What ``measure`` returns.
        rounds: Repeats that counted.
        clock: Name of the clock.
        examples: In an epoch.
        published: Whether the thesis's epochs stand in a column of their own.
    """
    firsts: dict[int, Sequence[Times]] = {}
    rows = []
    for row in measured["rows"]:
        first = firsts.setdefault(row["batch"], row["times"])
        cells = [str(row["batch"]), row["method"], *summary(row, first)]
        rows.append([*cells, _PUBLISHED.get((row["method"], row["batch"]), "–")] if published else cells)
    baseline = measured["rows"][0]["method"]
    note = _NOTE.format(rounds=rounds, examples=examples, baseline=baseline, clock=clock.capitalize())
    return Table(
        id="running_times",
        title=f"Running times, network of {measured['parameters']:,} parameters",
        columns=["batch", "method", "inference, µs", "backpropagation, µs", "epoch, s", "ratio"]
        + (["thesis: epoch, s"] if published else []),
        rows=rows,
        note=note + (_OF_THE_PAPER if published else ""),
        names=2,
    )


def write(folder: Path, table: Table, measured: Mapping[str, Any], command: str) -> None:
    """Writes the page, the table in three forms, and the times of each repeat.

    Raises:
        ValueError: If the folder holds something else.
    """
    claim(folder)
    machine = provenance()
    write_tables({table.id: table}, folder / "tables")
    content = {"command": command, "from": machine, "parameters": measured["parameters"]}
    rows = [{**row, "times": [each._asdict() for each in row["times"]]} for row in measured["rows"]]
    (folder / REPORT).write_text(json.dumps({**content, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    made_on = {name: str(value) for name, value in machine["machine"].items() if name != "threads"}
    packages = {"torch": str(machine["packages"]["torch"]), "code": str(machine["git_revision"])}
    parts = [
        section("table", "Times", [to_html(table)]),
        section("machine", "Machine", [definitions({**made_on, **packages, "command": command})]),
    ]
    page = template().substitute(
        title="Running times of training steps",
        about="",
        navigation="",
        content="\n".join(parts),
        footer='The times of each repeat are in <a href="report.json">report.json</a>, the table in <code>tables/</code>.',
    )
    write_page(page, folder / PAGE)


def main(words: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="repeats that count, 2 or more")
    parser.add_argument("--methods", default=",".join(METHODS), help="names of methods; the others are compared with the first")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="sizes of the minibatch")
    parser.add_argument("--examples", type=int, default=10_000, help="examples in an epoch")
    parser.add_argument("--clock", choices=list(_CLOCKS), default="wall", help="what counts; processor on a busy machine")
    parser.add_argument("--page", type=Path, help="folder for a page and the table in three forms")
    parser.add_argument("overrides", nargs="*", help="settings of the runs, such as compile=true or network.activations=[tanh]")
    given = parser.parse_args(words)
    if given.rounds < 2:
        parser.error(f"--rounds={given.rounds}: a standard deviation takes 2 or more")
    try:
        batches = [int(size) for size in given.batches.split(",")]
    except ValueError:
        parser.error(f"--batches={given.batches} must be a list of whole numbers such as 1,10,100")
    settings = [f"env.examples={given.examples}", "threads=1", *given.overrides]
    try:
        measured = measure(given.methods.split(","), batches, given.rounds, _CLOCKS[given.clock], settings)
        as_published = given.examples == 10_000 and not given.overrides
        table = table_of(measured, given.rounds, given.clock, given.examples, as_published)
        print(to_markdown(table), end="")
        if given.page is not None:
            command = f"python -m benchmarks.running_times {shlex.join(sys.argv[1:] if words is None else words)}"
            write(given.page, table, measured, command)
            print(f"page: {given.page / PAGE}")
    except ValueError as error:
        parser.error(str(error))


def _column(times: Sequence[Times], name: str) -> list[float]:
    return [getattr(each, name) for each in times]


if __name__ == "__main__":
    main()
