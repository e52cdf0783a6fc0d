"""Telling Hydra what can be configured: the defaults of every settings class, and the registered interventions.

The classes are the one source of every default: a file in ``configs/`` names only what it sets otherwise.
"""

from typing import Final

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from plasticity.agents.factory import AGENTS
from plasticity.envs.factory import STREAMS
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.metrics.observer import MetricsSettings
from plasticity.metrics.probe import ProbeSettings
from plasticity.networks.registry import TORSOS
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.training.config.settings import PARTS, CheckpointSettings, RunSettings
from plasticity.training.evaluation.episodes import EvaluationSettings
from plasticity.training.evaluation.task_evaluation import TaskEvaluationSettings

GROUPS: Final = ("agent", "env", "network", "optimizer", "intervention", "metrics", "experiment")
CHOICES: Final = "choices"  # key of a composed config under which the chosen words of the groups stand
SECTIONS: Final = {
    "probe": ProbeSettings,
    "evaluation": EvaluationSettings,
    "task_evaluation": TaskEvaluationSettings,
    "checkpoint": CheckpointSettings,
}
_stored: dict[str, type] = {}


def register_configs() -> None:
    """Stores defaults for Hydra to compose from; run it again after plugins were loaded.

    A name that begins with an underscore is a base that the files in ``configs/`` start from. Plain values are stored, not
    classes: a launcher sends the store to other processes, which do not have the user's plugin modules. Types and spelling are
    checked by ``plasticity.training.config.settings``.
    """
    store, methods = ConfigStore.instance(), INTERVENTIONS
    entries = {**methods, **{f"network.{name}": torso for name, torso in TORSOS.items()}}
    if _stored == entries:
        return
    sections = {name: _defaults(settings) for name, settings in SECTIONS.items()}
    store.store(name="_run", node={**_defaults(RunSettings), "interventions": {}, **sections})
    for name, agent in AGENTS.items():
        store.store(group="agent", name=f"_{name}", node={"name": name, **_defaults(agent.settings)})
    for name, (stream_settings, _) in STREAMS.items():
        store.store(group="env", name=f"_{name}", node={"name": name, **_defaults(stream_settings)})
    for name, torso in TORSOS.items():
        node = {"torso": name, **_defaults(torso), PARTS: {}}
        store.store(group="network", name=f"_{name}", node=node)
        if not torso.__module__.startswith("plasticity."):  # the project's own have files in configs/network
            store.store(group="network", name=name, node=node)
    store.store(group="optimizer", name="_settings", node={**_defaults(OptimizerSettings), PARTS: {}})
    store.store(group="metrics", name="_settings", node=_defaults(MetricsSettings))
    for name, method in methods.items():
        store.store(group="intervention", name=name, node=_defaults(method), package=f"interventions.{name}")
    _stored.clear()
    _stored.update(entries)


def _defaults(settings: type) -> dict[str, object]:
    values = OmegaConf.to_container(OmegaConf.structured(settings))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
