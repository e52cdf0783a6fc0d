"""Small runs of the real thing: ``plan_from``, ``assemble``, ``train``, ``RunSaver``, ``metrics.csv``; bitwise comparisons."""

import csv
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.agent import Agent
from envs import datasets
from envs.stream import Stream
from interventions.base import Intervention
from interventions.registry import refuse_conflicts, registered
from metrics.observer import Observer
from training.assembly import assemble
from training.checkpoint import discard_after, latest_checkpoint, load_checkpoint
from training.command_line import compose_config
from training.csv_writer import CsvWriter
from training.loop import train
from training.observation import Observers
from training.saving import RunSaver
from training.settings import plan_from
from training.tracking import Tracker

CONFIGS = Path(__file__).parents[2] / "configs"
# What makes each method act several times in a run of some 30 updates. A method that is not here runs with its defaults, and
# every_updates=3 if it has such a field; if it then does nothing, a test asks for a row.
FREQUENT: dict[str, dict[str, Any]] = {
    "adam_state_reset": {"every_updates": 4},
    "continual_backprop": {"replacement_rate": 0.2, "maturity_updates": 2},
    "l2": {"coefficient": 0.1},
    "l2_init": {"coefficient": 0.1},
    "load_balancing": {"step_size": 0.05},
    "redo": {"threshold": 0.9, "every_updates": 3, "average_updates": 2},
    "reset": {"last_layers": 1, "every_updates": 5},
    "shrink_and_perturb": {"shrink": 0.9, "perturb": 0.1, "every_updates": 2},
}
STEPS = {"dqn": 84, "supervised": 34}
COMMON = {
    "steps": 1000,
    "log_every_steps": 6,
    "progress": False,
    "threads": "1",
    "network": {
        "torso": "conv",
        "channels": [4],
        "pools": [2],
        "widths": [6],
        "activations": ["relu", "crelu"],
        "normalisation": ["batch"],
    },
    "optimizer": {"name": "adam", "learning_rate": 0.01, "max_gradient_norm": 1.0},
    "metrics": {"every_steps": 7, "inputs": 30, "names": ["dormant_fraction", "effective_rank", "weight_norm", "update_norm"]},
    "probe": {"every_steps": 30, "steps": 2, "inputs": 20, "batch_size": 8},
}
# Neither the environments nor the updates divide the periods of the observers, so that these fall between updates too.
BY_KIND: dict[str, dict[str, Any]] = {
    "dqn": {
        "agent": {
            "name": "dqn",
            "batch_size": 8,
            "buffer_transitions": 50,
            "warmup_env_steps": 9,
            "env_steps_per_update": 3,
            "target_every_updates": 4,
            "epsilon_env_steps": 60,
        },
        "env": {"name": "bandit", "num_envs": 2, "episode_steps": 7},
    },
    "supervised": {
        "agent": {"name": "supervised", "recent_examples": 40},
        "env": {"name": "task_stream", "examples_per_task": 70, "epochs_per_task": 3, "batch_size": 16},
    },
}


def settings_of(name: str) -> dict[str, Any]:
    """Returns settings with which a method acts often."""
    if name in FREQUENT or "every_updates" not in {field.name for field in fields(registered()[name])}:
        return FREQUENT.get(name, {})
    return {"every_updates": 3}


def compatible(order: int) -> list[str]:
    """Returns all methods that do not refuse each other, in one of several fixed random orders."""
    names = [name for name, cls in registered().items() if cls.__module__.startswith("interventions.")]
    random.Random(order).shuffle(names)
    chosen: list[str] = []
    for name in names:
        try:
            refuse_conflicts([*chosen, name])
        except ValueError:
            continue
        chosen.append(name)
    return chosen


BUILT_IN = [name for name, cls in registered().items() if cls.__module__.startswith("interventions.")]


@dataclass
class Run:
    """One run, and where it writes."""

    agent: Agent
    stream: Stream
    observers: Mapping[str, Observer]
    tracker: Tracker
    saver: RunSaver
    folder: Path

    def go(self, steps: int) -> "Run":
        """Trains until ``steps`` and lets go of the files, as a killed run would."""
        with self.tracker:
            train(self.agent, self.stream, Observers(self.observers, self.tracker), self.tracker, self.saver, steps)
        return self

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint would hold, apart from times."""
        tracker = self.tracker.state_dict()
        tracker["latest"] = {name: value for name, value in tracker["latest"].items() if not name.startswith("time/")}
        tracker["means"]["sums"] = {k: v for k, v in tracker["means"]["sums"].items() if not k.startswith("time/")}
        return {"agent": self.agent.state_dict(), "stream": self.stream.state_dict(), "tracker": tracker}

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns the rows of metrics.csv, apart from times."""
        with (self.folder / "metrics.csv").open() as file:
            return [(step, name, value) for step, name, value in csv.reader(file) if not name.startswith("time/")]

    def network(self) -> dict[str, torch.Tensor]:
        """Returns copies of the weights and buffers of the only part."""
        (part,) = self.agent.parts.values()
        return {name: value.clone() for name, value in part.network.state_dict().items()}


Start = Callable[..., Run]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _digits_are_read_once() -> Iterator[None]:
    """Every run of these tests reads the same file, which takes longer than most of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "_digits", cache(datasets._digits))
        yield


@pytest.fixture(scope="session")
def config_of() -> Callable[..., dict[str, Any]]:
    """Makes the config of a small run: ``config_of(kind, {"redo": {...}}, {"seed": 1, "agent": {...}})``."""
    defaults = {
        "dqn": compose_config([], CONFIGS),
        "supervised": compose_config(["agent=supervised", "env=permuted_pixels"], CONFIGS),
    }

    def make(kind: str, methods: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Any]) -> dict[str, Any]:
        config = deepcopy(defaults[kind])
        for layer in (COMMON, BY_KIND[kind], changes):
            for key, value in layer.items():
                config[key] = config[key] | value if isinstance(value, dict) else value
        return config | {"interventions": {name: dict(values) for name, values in methods.items()}}

    return make


@pytest.fixture(scope="session")
def start(config_of: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a run, or goes on with the folder of another: ``start(kind, {"redo": {...}}, changes, resume=folder)``."""

    def begin(
        kind: str,
        methods: Mapping[str, Mapping[str, Any]] | Sequence[str] = (),
        changes: Mapping[str, Any] | None = None,
        resume: Path | None = None,
    ) -> Run:
        chosen = methods if isinstance(methods, Mapping) else {name: settings_of(name) for name in methods}
        plan = plan_from(config_of(kind, chosen, changes or {}))
        folder = resume or tmp_path_factory.mktemp(kind)
        path = latest_checkpoint(folder)
        state = load_checkpoint(path) if path else None
        agent, stream, observers = assemble(plan)
        if state:
            discard_after(folder, state["step"])
        tracker = Tracker([CsvWriter(folder / "metrics.csv", state and state["step"])], plan.run.log_every_steps)
        saver = RunSaver(folder, plan.checkpoint, plan.config, agent, stream, tracker)
        if state:
            saver.load(state)
        return Run(agent, stream, observers, tracker, saver, folder)

    return begin


@pytest.fixture(scope="session")
def finished(start: Start) -> Callable[..., Run]:
    """Returns a run that went all the way, made once for each agent and list of methods."""
    made: dict[tuple[str, ...], Run] = {}

    def get(kind: str, *names: str) -> Run:
        if (kind, *names) not in made:
            made[kind, *names] = start(kind, names).go(STEPS[kind])
        return made[kind, *names]

    return get


@pytest.fixture(params=STEPS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each agent."""
    return str(request.param)


@pytest.fixture
def steps(kind: str) -> int:
    """Length of a run of this agent."""
    return STEPS[kind]


@pytest.fixture(params=BUILT_IN)
def method(request: pytest.FixtureRequest) -> str:
    """Each registered method."""
    return str(request.param)


@pytest.fixture(params=[name for name in BUILT_IN if registered()[name].no_effect is not None])
def zeroable(request: pytest.FixtureRequest) -> type[Intervention]:
    """Each registered method that has settings at which it does nothing."""
    return registered()[request.param]


@pytest.fixture(params=[pytest.param([name], id=name) for name in BUILT_IN] + [[f"all, order {i}"] for i in range(3)], ids=str)
def methods(request: pytest.FixtureRequest) -> list[str]:
    """Each registered method, and all that can run together in three orders."""
    first = str(request.param[0])
    return compatible(int(first.rpartition(" ")[2])) if first.startswith("all, order") else list(request.param)


@pytest.fixture(params=[0, 1, 2])
def together(request: pytest.FixtureRequest) -> list[str]:
    """All methods that can run together, in three orders."""
    return compatible(request.param)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b or (a != a and b != b))


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """Compares nested states bit by bit; NaN equals NaN."""
    return _same
