"""Times an update with each method relative to one without: ``python -m benchmarks.interventions``."""

import argparse
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.alternate import alternate
from plasticity.agents.parts import PartBuilder
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import MLPSpec, NatureCNNSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.execution import Execution
from plasticity.updates.updater import Updater

PLAIN: Final = "none"


class LabelledBatch(NamedTuple):
    """Inputs (B, ...) with labels (B,), and the inputs that come next, for methods that need them."""

    inputs: Tensor
    targets: Tensor
    next_inputs: Tensor


class Setting(NamedTuple):
    """A network, the size of a batch, how many updates are timed at once, and the head's kind."""

    spec: NetworkSpec
    shape: tuple[int, ...]
    dtype: torch.dtype
    batch: int
    updates: int


SETTINGS: Final = {
    "MLP, batch 1": Setting(MLPSpec(widths=[100, 100, 100]), (784,), torch.float32, 1, 100),
    "MLP, batch 256": Setting(MLPSpec(widths=[100, 100, 100]), (784,), torch.float32, 256, 20),
    "Nature CNN, batch 32": Setting(NatureCNNSpec(widths=[512]), (4, 84, 84), torch.uint8, 32, 2),
}


def costs(setting: Setting, methods: Sequence[str], rounds: int, optimizer: str, compile: bool) -> dict[str, float | str]:
    """Returns the time of an update with each method relative to one without, or why there is none."""
    programs: dict[str, Callable[[], object]] = {}
    refused: dict[str, float | str] = {}
    for method in (PLAIN, *methods):
        try:
            program = _updates(setting, method, optimizer, compile)
            program()
        except (ValueError, FloatingPointError) as error:
            refused[method] = str(error)
            continue
        programs[method] = program
    seconds = alternate(programs, rounds)
    plain = seconds.pop(PLAIN)
    ratios = {name: median(a / b for a, b in zip(times, plain, strict=True)) for name, times in seconds.items()}
    return {**ratios, **refused}


def _updates(setting: Setting, method: str, optimizer: str, compile: bool) -> Callable[[], object]:
    methods = {} if method == PLAIN else {method: INTERVENTIONS[method]}
    settings = OptimizerSettings(optimizer, 1e-4)
    builder = PartBuilder(setting.spec, setting.shape, setting.dtype, settings, methods, execution=Execution(compile=compile))
    part = builder("q", HeadSpec("q", 10))
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        shape = (setting.batch, *setting.shape)
        if setting.dtype == torch.uint8:
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return torch.rand(shape, generator=generator)

    labels = torch.randint(0, 10, (8, setting.batch), generator=generator)
    batches = [LabelledBatch(draw(), row, draw()) for row in labels]
    return lambda: _train(part, batches, setting.updates)


def _train(part: Updater, batches: Sequence[LabelledBatch], updates: int) -> None:
    for index in range(updates):
        part.update(_loss, batches[index % len(batches)])


def _loss(outputs: Tensor, batch: LabelledBatch) -> tuple[Tensor, dict[str, Tensor]]:
    return functional.cross_entropy(outputs, batch.targets), {}


def table(methods: Sequence[str], settings: Sequence[str], rounds: int, optimizer: str, compile: bool) -> str:
    """Returns a row for each method with its cost in each setting, and below them the reasons of those refused."""
    columns = {name: costs(SETTINGS[name], methods, rounds, optimizer, compile) for name in settings}
    lines = [f"{'time of an update / without the method':<40}" + "".join(f"{name:>22}" for name in settings)]
    reasons = []
    for method in methods:
        row = [columns[name][method] for name in settings]
        lines.append(f"{method:<40}" + "".join(f"{cell:>22.2f}" if isinstance(cell, float) else f"{'-':>22}" for cell in row))
        reasons += [f"{method}, {name}: {cell}" for name, cell in zip(settings, row, strict=True) if isinstance(cell, str)]
    return "\n".join([*lines, "", *reasons])


def main(words: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--methods", help="names joined by commas; all without it")
    parser.add_argument("--settings", help=f"joined by semicolons, of {'; '.join(SETTINGS)}")
    parser.add_argument("--optimizer", default="adam", help="optimizer of all of them")
    parser.add_argument("--compile", action="store_true", help="run updates as compiled functions")
    given = parser.parse_args(words)
    methods = given.methods.split(",") if given.methods else list(INTERVENTIONS)
    settings = [name.strip() for name in given.settings.split(";")] if given.settings else list(SETTINGS)
    unknown = [name for name in methods if name not in INTERVENTIONS] + [name for name in settings if name not in SETTINGS]
    if unknown:
        parser.error(f"{unknown[0]} is unknown; choose from {', '.join(INTERVENTIONS)}, and from {'; '.join(SETTINGS)}")
    torch.set_num_threads(1)
    print(table(methods, settings, given.rounds, given.optimizer, given.compile))


if __name__ == "__main__":
    main()
