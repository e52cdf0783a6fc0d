"""Times learning from images in the testbed's loop and in a bare PyTorch loop, in turn: ``python -m benchmarks.supervised``."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.alternate import alternate, table
from benchmarks.bare_images import bare_loop, convnet, resnet18
from plasticity.training.assembly import assemble
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from
from plasticity.training.loop import train
from plasticity.training.observation import Observers
from plasticity.training.step import Step
from plasticity.training.tracking.csv_writer import CsvWriter
from plasticity.training.tracking.tensorboard_writer import TensorBoardWriter
from plasticity.training.tracking.tracker import Tracker

CONFIGS: Final = Path(__file__).resolve().parents[1] / "configs"
_CLASSES: Final = 2
_UNWATCHED: Final = (
    "metrics.every_steps=0",
    "metrics.at_task_switch=false",
    "probe.every_steps=0",
    "task_evaluation.every_tasks=0",
)


FORMS: Final = {
    "eager": (),
    "compiled": ("compile=true",),
    "captured": ("capture=true",),
    "compiled and captured": ("compile=true", "capture=true"),
}


class Row(NamedTuple):
    """What is compared.

    Attributes:
        title: What it is.
        bare: Builds the network of the bare loop for a number of classes.
        words: Settings of the testbed's run.
        batch: Images in a minibatch.
        per_class: Images of each class, so that no minibatch is smaller.
        rate: Learning rate.
        updates: Updates that are timed at once.
    """

    title: str
    bare: Callable[[int], nn.Module]
    words: Sequence[str]
    batch: int
    per_class: int
    rate: float
    updates: int


ROWS: Final = {
    "convnet": Row("Continual ImageNet's ConvNet, batch 100", convnet, ("experiment=continual_imagenet",), 100, 600, 0.01, 12),
    "resnet18": Row(
        "ResNet-18, batch 90",
        resnet18,
        ("agent=supervised", "env=continual_imagenet", "network=resnet18", "optimizer=sgd", "optimizer.momentum=0.9"),
        90,
        90,
        0.1,
        1,
    ),
}


class _Never:
    """Saves nothing."""

    def before_step(self) -> None:
        pass

    def after_step(self, step: Step) -> bool:
        return False

    def save(self, unfinished: Step | None = None) -> None:
        pass


def compare(row: Row, rounds: int, updates: int, device: str, forms: Sequence[str], overrides: Sequence[str]) -> str:
    """Returns the table of one row, on random images.

    Args:
        row: What is compared.
        rounds: Rounds that count.
        updates: Updates of each program in a round.
        device: Where all programs learn, ``cpu`` or ``cuda``.
        forms: Keys of ``FORMS``: how the testbed's updates are carried out.
        overrides: More settings of the testbed's runs.
    """
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (row.per_class, 3, 32, 32), np.uint8) for _ in range(_CLASSES)]
    labels = torch.arange(_CLASSES).repeat_interleave(row.per_class)
    pixels, labels = torch.from_numpy(np.concatenate(images)).to(device), labels.to(device)
    bare = bare_loop(row.bare(_CLASSES).to(device), pixels, labels, row.batch, row.rate)
    with TemporaryDirectory() as place:
        data = Path(place) / "data"
        data.mkdir()
        for label, own in enumerate(images):
            np.save(data / f"{label}.npy", own)
        programs: dict[str, Callable[[], object]] = {"bare PyTorch loop, default SGD": finished(partial(bare, updates), device)}
        for form, precision in product(forms, ("fp32", "bf16")):
            folder = Path(place) / f"{form} {precision}"
            folder.mkdir()
            words = [*FORMS[form], f"precision={precision}", f"device={device}", *overrides]
            programs[f"testbed, {form}, {precision}"] = finished(looping(row, words, updates, data, folder), device)
        seconds = alternate(programs, rounds)
    return table(row.title, seconds, updates * row.batch, "images", {"bare loop": next(iter(programs))})


def finished(program: Callable[[], object], device: str) -> Callable[[], object]:
    """Returns a program that has ended when the device has."""

    def run() -> None:
        program()
        torch.cuda.synchronize()

    return run if device.startswith("cuda") else program


def looping(row: Row, overrides: Sequence[str], updates: int, data: Path, folder: Path) -> Callable[[], object]:
    """Assembles a run and returns a function that advances it by ``updates``, logging and writing included."""
    sizes = [f"env.batch_size={row.batch}", f"env.train_per_class={row.per_class}", "env.test_per_class=0"]
    words = [*row.words, *sizes, f"env.data_folder={data}", f"optimizer.learning_rate={row.rate}", "threads=1", *_UNWATCHED]
    agent, stream, _ = assemble(plan_from(compose_config([*words, *overrides], CONFIGS)))
    tracker = Tracker([CsvWriter(folder / "metrics.csv"), TensorBoardWriter(folder)], 300)
    return lambda: train(agent, stream, Observers({}, tracker), tracker, _Never(), stream.step + updates)


def main(words: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    parser.add_argument("--only", choices=list(ROWS), help="one table")
    parser.add_argument("--updates", type=int, help="updates that are timed at once")
    parser.add_argument("--device", default="cpu", help="where all programs learn: cpu or cuda")
    parser.add_argument("--forms", default="eager", help=f"how the testbed's updates are carried out: {', '.join(FORMS)}")
    parser.add_argument("overrides", nargs="*", help="settings of the testbed's runs, such as channels_last=false")
    given = parser.parse_args(words)
    forms = given.forms.split(",")
    if unknown := [form for form in forms if form not in FORMS]:
        parser.error(f"--forms: {unknown[0]} is unknown; choose from {', '.join(FORMS)}")
    torch.set_num_threads(1)
    for name in [given.only] if given.only else ROWS:
        row = ROWS[name]
        updates = given.updates or row.updates
        print(compare(row, given.rounds, updates, given.device, forms, given.overrides), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
