"""Small runs of the real thing: ``plan_from``, ``assemble``, ``train``, ``RunSaver``, ``metrics.csv``; bitwise comparisons."""

import csv
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from frequent_settings import FREQUENT as SHARED
from registries import built_in_interventions

from plasticity.agents.agent import Agent
from plasticity.envs.stream import Stream
from plasticity.interventions.registry import INTERVENTIONS, refuse_conflicts
from plasticity.metrics.observer import Observer
from plasticity.networks.factory import build_network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.training.assembly import assemble
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import Plan, plan_from
from plasticity.training.loop import train
from plasticity.training.observation import Observers
from plasticity.training.saving.checkpoint import discard_after, latest_checkpoint, load_checkpoint, saved_steps
from plasticity.training.saving.saver import RunSaver, restore
from plasticity.training.tracking.csv_writer import CsvWriter
from plasticity.training.tracking.tracker import Tracker

CONFIGS = Path(__file__).parents[2] / "configs"
# What makes each method act several times in a run of some 20 updates. A method that is not here runs with its defaults, and
# every_updates=3 if it has such a field; if it then does nothing, a test asks for a row.
FREQUENT: dict[str, dict[str, Any]] = SHARED | {
    "fixed_threshold_resets": {"threshold": 20, "firing_level": 1.6},
    "redo": {"threshold": 0.9, "every_updates": 3, "average_updates": 2},
    "self_normalized_resets": {
        "initial_threshold_examples": 20,
        "threshold_floor_examples": 0,
        "threshold_every_updates": 6,
        "firing_level": 1.6,
    },
}
# Methods that only some agents can run, others being refused; the laws are about the rest of the pairs.
ONLY = {"dr3": ("dqn",), "sample_weight_decay": ("dqn", "c51", "sac")}
STEPS = {"dqn": 63, "supervised": 24, "c51": 63, "rainbow": 63, "ppo": 63, "sac": 63}
# Where a run that goes all the way is saved, once: in the middle of an episode, and of an epoch. Tasks end at steps 10 and 20,
# epochs every 5, so that a task begins after a resume too.
SAVED = {"supervised": 13}
# These two run with every method, alone and together; the others plain, and with all that can run together in one order.
MAIN = ("dqn", "supervised")
# Laws about how a part is built, which is the same for both of them.
TWICE = (
    "test_methods_leave_initial_weights_alone",
    "test_methods_leave_the_data_alone",
    "test_every_parameter_is_in_one_optimizer",
)
MANY = 0  # of the order in which the others have them
ORDERS = {"methods": 3, "together": 1, "zero": 0}  # in how many orders the first two have all that can run together
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
        "normalisation": ["batch_mean", "batch_std"],
    },
    "optimizer": {"name": "adam", "learning_rate": 0.01, "max_gradient_norm": 1.0},
    "metrics": {"every_steps": 7, "inputs": 30, "names": ["dormant_fraction", "effective_rank", "weight_norm", "update_norm"]},
    "probe": {"every_steps": 30, "steps": 2, "inputs": 20, "batch_size": 8},
}
_DQN = {
    "name": "dqn",
    "batch_size": 8,
    "buffer_transitions": 50,
    "warmup_env_steps": 9,
    "env_steps_per_update": 3,
    "target_every_updates": 4,
    "epsilon_env_steps": 60,
}
_CATEGORICAL = {"loss": "categorical", "bins": 7, "value_low": -1.0, "value_high": 3.0}
_RAINBOW = {
    "double": True,
    "dueling": True,
    "stream_widths": [5],
    "noise_deviation": 0.3,
    "n_step": 3,
    "prioritised": True,
    "importance_env_steps": 60,
    "epsilon_start": 0.0,
    "epsilon_end": 0.0,
}
_BANDIT = {"name": "bandit", "num_envs": 2, "episode_steps": 7}
# Neither the environments nor the updates divide the periods of the observers, so that these fall between updates too.
BY_KIND: dict[str, dict[str, Any]] = {
    "dqn": {"agent": _DQN, "env": _BANDIT},
    "c51": {"agent": _DQN | _CATEGORICAL, "env": _BANDIT},
    "rainbow": {"agent": _DQN | _CATEGORICAL | _RAINBOW, "env": _BANDIT},
    "ppo": {
        "agent": {"name": "ppo", "rollout_steps": 5, "minibatch_size": 4, "epochs": 1},
        "env": _BANDIT,
        "optimizer": {"schedule": "linear", "schedule_steps": 300},
    },
    "sac": {
        "agent": {
            "name": "sac",
            "batch_size": 8,
            "buffer_transitions": 50,
            "warmup_env_steps": 9,
            "env_steps_per_update": 3,
            "temperature_learning_rate": 0.01,
        },
        "env": {
            "name": "gym",
            "id": "plasticity/ContinuousIdentity-v0",
            "kwargs": {"episode_steps": 7},
            "num_envs": 2,
        },
        "network": {
            "torso": "mlp",
            "widths": [7, 6],
            "activations": ["relu", "crelu"],
            "normalisation": ["batch_mean", "batch_std"],
        },
    },
    "supervised": {
        "agent": {"name": "supervised", "recent_examples": 40},
        "env": {"name": "task_stream", "examples_per_task": 70, "epochs_per_task": 2, "batch_size": 16},
        "probe": {"every_steps": 20},
    },
}


def settings_of(name: str) -> dict[str, Any]:
    """Returns settings with which a method acts often."""
    if name in FREQUENT or "every_updates" not in {field.name for field in fields(INTERVENTIONS[name])}:
        return FREQUENT.get(name, {})
    return {"every_updates": 3}


@cache
def compatible(order: int) -> list[str]:
    """Returns all methods that do not refuse each other, in one of several fixed random orders.

    To find them takes as many networks as there are methods, and the collection of the laws asks some ninety times.
    """
    names = [name for name in built_in_interventions() if name not in ONLY]
    random.Random(order).shuffle(names)
    chosen: list[str] = []
    spec = MLPSpec(widths=[4])
    for name in names:
        try:
            refuse_conflicts([*chosen, name])
            built = INTERVENTIONS[name](**settings_of(name)).build(spec)
            build_network(built, (4,), torch.float32, HeadSpec("q", 2), 0)
        except ValueError:
            continue
        chosen.append(name)
        spec = built
    return chosen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out the pairs of an agent and a method that ``ONLY`` rules out."""
    items[:] = [item for item in items if Path(__file__).parent not in item.path.parents or _possible(item)]


def _possible(item: pytest.Item) -> bool:
    chosen: dict[str, Any] = getattr(item, "callspec").params if hasattr(item, "callspec") else {}  # noqa: B009
    names = [chosen.get("method"), *(name for key in ("methods", "together", "zero") for name in chosen.get(key, []))]
    return all(chosen.get("kind") in (None, *ONLY[name]) for name in names if name in ONLY)


BUILT_IN = list(built_in_interventions())


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
        """Trains until ``steps`` and releases the files, as a killed run would."""
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
        """Returns copies of the weights and buffers of all parts, each name after that of its part."""
        return {
            f"{name}.{key}": value.clone()
            for name, part in self.agent.parts.items()
            for key, value in part.network.state_dict().items()
        }

    def parts_of(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what a state holds of each part, by name."""
        within = state["agent"]
        return {name: within["parts"][name] if "parts" in within else within[name] for name in self.agent.parts}


Start = Callable[..., Run]


@pytest.fixture(scope="session")
def config_of() -> Callable[..., dict[str, Any]]:
    """Makes the config of a small run: ``config_of(kind, {"redo": {...}}, {"seed": 1, "agent": {...}})``."""
    words = {
        "supervised": ["agent=supervised", "env=permuted_pixels"],
        "ppo": ["agent=ppo"],
        "sac": ["agent=sac", "env=gym"],
    }
    defaults = {kind: compose_config(words.get(kind, []), CONFIGS) for kind in STEPS}

    def make(kind: str, methods: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Any]) -> dict[str, Any]:
        config = deepcopy(defaults[kind])
        for layer in (COMMON, BY_KIND[kind], changes):
            for key, value in layer.items():
                base = defaults[kind] if key == "network" and "torso" in value else config  # each torso has settings of its own
                config[key] = base[key] | value if isinstance(value, dict) else value
        return config | {"interventions": {name: dict(values) for name, values in methods.items()}}

    return make


@pytest.fixture(scope="session")
def start(config_of: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a run, or goes on with the folder of another: ``start(kind, {"redo": {...}}, changes, resume=folder)``."""

    plans: dict[str, Plan] = {}

    def plan_of(kind: str, methods: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Any]) -> Plan:
        """Checks a config once: that takes longer than half of the run, and most are asked for several times."""
        if not set(BUILT_IN).issuperset(methods):  # those of one test are other classes in the next
            return plan_from(config_of(kind, methods, changes))
        key = repr((kind, dict(methods), changes))
        if key not in plans:
            plans[key] = plan_from(config_of(kind, methods, changes))
        return plans[key]

    def begin(
        kind: str,
        methods: Mapping[str, Mapping[str, Any]] | Sequence[str] = (),
        changes: Mapping[str, Any] | None = None,
        resume: Path | None = None,
    ) -> Run:
        chosen = methods if isinstance(methods, Mapping) else {name: settings_of(name) for name in methods}
        plan = plan_of(kind, chosen, changes or {})
        folder = resume or tmp_path_factory.mktemp(kind)
        path = latest_checkpoint(folder)
        state = load_checkpoint(path) if path else None
        agent, stream, observers = assemble(plan)
        if state:
            discard_after(folder, state["step"])
        tables = CsvWriter(folder / "metrics.csv", *((state["step"], state["files"]) if state else ()))
        tracker = Tracker([tables], plan.run.log_every_steps)
        saver = RunSaver(folder, plan.checkpoint, plan.config, agent, stream, tracker, observers, tables)
        if state:
            restore(state, folder, agent, stream, observers)
            tracker.load_state_dict(state["tracker"])
        return Run(agent, stream, observers, tracker, saver, folder)

    return begin


@pytest.fixture(scope="session")
def finished(start: Start) -> Callable[..., Run]:
    """Returns a run that went all the way and was saved once, made once for each agent and list of methods."""
    made: dict[tuple[str, ...], Run] = {}

    def get(kind: str, *names: str) -> Run:
        if (kind, *names) not in made:
            made[kind, *names] = start(kind, names, saving(kind)).go(STEPS[kind])
        return made[kind, *names]

    return get


def saving(kind: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns these changes of the config and those by which a run is saved once."""
    return {**(changes or {}), "checkpoint": {"every_steps": SAVED.get(kind, 36)}}


@pytest.fixture(scope="session")
def saved_once(start: Start) -> Callable[..., Run]:
    """Makes a run that goes all the way and is saved once: ``saved_once(kind, ["redo"], {"agent": {...}})``."""
    return lambda kind, names, changes: start(kind, names, saving(kind, changes)).go(STEPS[kind])


@pytest.fixture(scope="session")
def resumed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Goes on from the checkpoint of such a run in freshly built objects, in a copy of its folder, as after a kill.

    What the run wrote after that checkpoint is there, as it is after a kill right before the next one.
    """

    def again(whole: Run, kind: str, names: Sequence[str], changes: Mapping[str, Any] | None = None) -> Run:
        folder = Path(shutil.copytree(whole.folder, tmp_path_factory.mktemp("resumed") / "run"))
        assert saved_steps(folder) == [SAVED.get(kind, 36)]
        return start(kind, names, saving(kind, changes), resume=folder).go(STEPS[kind])

    return again


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives ``kind`` each agent, unless a test names some, and ``methods``, ``together`` or ``zero`` what it runs with."""
    wanted = [name for name in ("methods", "together", "zero") if name in metafunc.fixturenames]
    given = any(mark.args[0] == "kind" for mark in metafunc.definition.iter_markers("parametrize"))
    if given or "kind" not in metafunc.fixturenames:
        return
    measuring = "measur" in metafunc.function.__name__
    if not wanted:
        kinds = MAIN if "method" in metafunc.fixturenames else tuple(STEPS)
        metafunc.parametrize("kind", [pytest.param(kind, marks=_slow(measuring and kind not in MAIN)) for kind in kinds])
        return
    resuming, twice = "resumed" in metafunc.fixturenames, metafunc.function.__name__ in TWICE

    def slow(kind: str, label: str, names: list[str]) -> bool:
        """In the default suite a few stand for all where the law does not depend on the method, and one agent for two.

        Sets of three stand only where a run is resumed: all methods that can run together hold their pairs. Laws about how a
        part is built take one order of all.
        """
        alone = len(names) == 1
        if len(names) == 3 and not resuming:
            return True
        if twice:
            return (alone and kind == "dqn" and names[0] not in ONLY) or label.endswith(("order 1", "order 2"))
        return measuring and (alone or kind not in MAIN)

    rows = [
        pytest.param(kind, names, id=f"{kind}-{label}", marks=_slow(slow(kind, label, names)))
        for kind in STEPS
        for label, names in _choices(wanted[0], kind)
    ]
    metafunc.parametrize(("kind", wanted[0]), rows)


def _slow(slow: bool) -> tuple[pytest.MarkDecorator, ...]:
    return (pytest.mark.slow,) if slow else ()


def _choices(wanted: str, kind: str) -> list[tuple[str, list[str]]]:
    """Returns lists of methods, each with a label."""
    zeroable = [name for name in BUILT_IN if INTERVENTIONS[name].no_effect is not None]
    alone = {"methods": BUILT_IN, "together": [], "zero": zeroable}[wanted]
    if kind in MAIN:
        orders = [(f"all, order {order}", compatible(order)) for order in range(ORDERS[wanted])]
        return [(name, [name]) for name in alone] + orders + ([] if wanted != "methods" else _threes())
    many = compatible(MANY)
    if wanted == "zero":
        return [("all of them", [name for name in many if name in zeroable])]
    return [("all", many)] + ([("none", [])] if wanted == "methods" else [])


def _threes() -> list[tuple[str, list[str]]]:
    """Returns a few random sets of three methods that can run together."""
    sets = [compatible(order)[:3] for order in range(100, 104)]
    return [("-".join(names), names) for names in sets]


@pytest.fixture(scope="session")
def compatible_in() -> Callable[[int], list[str]]:
    """Returns all methods that can run together, in one of three orders."""
    return compatible


@pytest.fixture
def steps(kind: str) -> int:
    """Length of a run of this agent."""
    return STEPS[kind]


@pytest.fixture(params=BUILT_IN)
def method(request: pytest.FixtureRequest) -> str:
    """Each registered method."""
    return str(request.param)


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
