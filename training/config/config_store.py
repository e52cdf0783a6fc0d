"""Telling Hydra what can be configured: the defaults of every settings class, and what is registered.

The classes are the one source of every default: a file in ``configs/`` names only what it sets to another value.
"""

from typing import Final

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from plasticity.metrics.observer import MetricsSettings
from plasticity.metrics.probe import ProbeSettings
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.training.config.choices import PARTS, REGISTERED, defaults_of
from plasticity.training.config.settings import CheckpointSettings, RunSettings
from plasticity.training.evaluation.episodes import EvaluationSettings
from plasticity.training.evaluation.task_evaluation import TaskEvaluationSettings

GROUPS: Final = ("agent", "env", "network", "optimizer", "intervention", "method", "metrics", "experiment")
CHOICES: Final = "choices"  # key of a composed config under which the chosen words of the groups stand
SECTIONS: Final = {
    "probe": ProbeSettings,
    "evaluation": EvaluationSettings,
    "task_evaluation": TaskEvaluationSettings,
    "checkpoint": CheckpointSettings,
}
_stored: dict[tuple[str, str], object] = {}


def grown(count: int, scale: float, exponent: float, multiple: int) -> int:
    """Returns ``count`` times ``scale ** exponent``, cut to a multiple: ``${grown:256,${network.scale},0.74,8}`` in a file."""
    return int(count * scale**exponent / multiple) * multiple


def times(first: int, second: int) -> int:
    """Returns the product of two whole numbers: ``${times:6250,${env.examples_per_task}}`` in a file."""
    return int(first) * int(second)


# At import, because the workers of a launcher compose in their own processes.
OmegaConf.register_new_resolver("grown", grown, replace=True)
OmegaConf.register_new_resolver("times", times, replace=True)


def register_configs() -> None:
    """Stores defaults for Hydra to compose from; run it again after plugins were loaded.

    A name that begins with an underscore is a base that the files in ``configs/`` start from. What a plugin registered can be
    chosen by its name without a file. Plain values are stored, not classes: a launcher sends the store to other processes, which
    do not have the user's plugin modules. Types and spelling are checked by ``plasticity.training.config.settings``.
    """
    entries = {(group, name): entry for group, kind in REGISTERED.items() for name, entry in kind.registry.items()}
    if _stored == entries:
        return
    store = ConfigStore.instance()
    sections = {name: defaults_of(settings) for name, settings in SECTIONS.items()}
    store.store(name="_run", node={**defaults_of(RunSettings), "interventions": {}, **sections})
    store.store(group="optimizer", name="_settings", node={**defaults_of(OptimizerSettings), PARTS: {}})
    store.store(group="metrics", name="_settings", node=defaults_of(MetricsSettings))
    for group, kind in REGISTERED.items():
        for name in kind.registry:
            if group == "intervention":
                node = defaults_of(kind.settings(kind.registry[name]))
                store.store(group=group, name=name, node=node, package=f"interventions.{name}")
                continue
            store.store(group=group, name=f"_{name}", node=kind.node(name))
        for name in kind.registry.added() if group != "intervention" else ():
            store.store(group=group, name=name, node=kind.node(name))  # a file of that name is found first
    _stored.clear()
    _stored.update(entries)
