"""The plugins of the README and of the page about methods, as a user would write them into files and load them."""

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from registries import forget_entries, forget_modules

import run_agent
from plasticity.interventions.registry import INTERVENTIONS

README = Path(run_agent.__file__).with_name("README.md")
PAGE = README.parent / "docs" / "adding" / "method.md"
PLUGINS = [
    source
    for page in (README, PAGE)
    for source in re.findall(r"```python[^\n]*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    if "@intervention(" in source
]
SMALL = ["steps=40", "log_every_steps=10", "metrics.every_steps=0", "probe.every_steps=0", "progress=false"]
SMALL += ["network.widths=[12,8]", "agent.warmup_env_steps=10", "agent.batch_size=4"]
COUNTER = '''
from dataclasses import dataclass

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention


@intervention("counter")
@dataclass
class Counter(Intervention):
    """Counts 5 in every second update."""

    def after_step(self, u: Update) -> Logs:
        return {"always": 0.0} | {"now_and_then": 5.0} if u.step % 2 else {"always": 5.0}
'''


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_entries(monkeypatch, INTERVENTIONS)
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    yield
    forget_modules(before)
    torch.set_num_threads(threads)


def logged(folder: Path, source: str, *words: str) -> dict[str, list[float]]:
    """Runs the command with the plugin in a file of the user's; returns the values of metrics.csv by name, in order."""
    file = folder / "my_file.py"
    file.write_text(source, encoding="utf-8")
    assert run_agent.main([f"plugins=[{file}]", f"run_dir={folder / 'run'}", *SMALL, *words]) == 0
    values: dict[str, list[float]] = {}
    with (folder / "run" / "metrics.csv").open(newline="") as rows:
        for row in csv.DictReader(rows):
            values.setdefault(row["name"], []).append(float(row["value"]))
    return values


def test_there_are_two_complete_plugins() -> None:
    assert [re.findall(r'@intervention\("(\w+)"\)', source) for source in PLUGINS] == [["gradient_noise"], ["silent_reset"]]


def test_the_first_one_adds_noise(tmp_path: Path) -> None:
    values = logged(tmp_path, PLUGINS[0], "intervention=[redo,gradient_noise]", "interventions.gradient_noise.scale=0.5")
    assert values["gradient_noise/scale"] == [0.5, 0.5, 0.5]


def test_the_second_one_resets_units(tmp_path: Path) -> None:
    words = ["intervention=[silent_reset]", "interventions.silent_reset.every_updates=10"]
    counts = logged(tmp_path, PLUGINS[1], *words)["silent_reset/units_reset"]
    assert len(counts) == 3
    assert all(1 <= count < 20 for count in counts)  # of 20; four inputs leave some asleep, and never all


def test_what_a_hook_returns_is_averaged_over_the_updates_that_returned_it(tmp_path: Path) -> None:
    values = logged(tmp_path, COUNTER, "intervention=[counter]")
    assert values["counter/always"] == [2.5, 2.5, 2.5]
    assert values["counter/now_and_then"] == [5.0, 5.0, 5.0]
