"""From a composed config to typed settings; every unknown key or wrong type is named here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from math import isfinite
from typing import Any, ClassVar, Final, TypeVar, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plasticity.agents.registry import AGENTS
from plasticity.envs.registry import STREAMS
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS, refuse_conflicts
from plasticity.metrics.observer import MetricsSettings
from plasticity.metrics.probe import ProbeSettings
from plasticity.networks.registry import TORSOS
from plasticity.networks.spec import NetworkSpec
from plasticity.optimizers.factory import OPTIMIZERS, OptimizerSettings
from plasticity.settings.fields import Settings, require_choice, setting
from plasticity.settings.naming import did_you_mean
from plasticity.training.config.choices import PARTS
from plasticity.training.evaluation.episodes import EvaluationSettings
from plasticity.training.evaluation.task_evaluation import TaskEvaluationSettings

MODES: Final = ("train", "evaluate")
_SECTIONS: Final = (
    "agent",
    "env",
    "network",
    "optimizer",
    "interventions",
    "metrics",
    "probe",
    "evaluation",
    "task_evaluation",
    "checkpoint",
)
_LARGEST: Final = 2**63 - 1
_MOST_THREADS: Final = 1024
_Settings = TypeVar("_Settings")


@dataclass
class CheckpointSettings(Settings):
    """When the run is saved."""

    section: ClassVar[str] = "checkpoint"

    every_steps: int = setting(20_000, "Period in steps of the stream, 0 for only at the end and on interruption.", low=0)
    keep: int = setting(2, "How many of the newest checkpoints are kept.", low=1)
    at_steps: list[int] = setting(
        [], "Steps of the stream after which it is also saved, and kept for good: to branch from.", low=1
    )


@dataclass
class RunSettings(Settings):
    """The settings at the top of the config."""

    section: ClassVar[str] = ""

    mode: str = setting(
        "train",
        "``train``, or ``evaluate``: with ``resume=<run folder>``, play episodes with a checkpoint of that run.",
        choices=MODES,
    )
    steps: int = setting(20_000, "Environment steps, or minibatches of a data stream.", low=1)
    seed: int = setting(0, "Of the run; everything random is derived from it.", low=0, high=_LARGEST)
    device: str = setting("cpu", "``cpu``, ``cuda`` or ``auto``.")
    precision: str = setting("fp32", "``fp32``, or ``bf16`` for autocast of the forward pass.", choices=("fp32", "bf16"))
    compile: bool = setting(
        False, "Runs updates as compiled functions: about ten seconds to compile, then small networks train several times faster."
    )
    capture: bool = setting(
        False, "Records updates as CUDA graphs (``device=cuda``), compiled or not: the host then sends one command for each."
    )
    channels_last: bool = setting(
        True, "Layout of the weights of convolutions: the faster one on the processors that were measured."
    )
    threads: str = setting("auto", "A number, or ``auto``: one for a small network, all cores for a large one.")
    log_every_steps: int = setting(500, "Steps between two lines of averages in ``metrics.csv`` and TensorBoard.", low=1)
    progress: bool = setting(True, "Whether there is a progress bar.")
    run_dir: str | None = setting(None, "Folder of this run; None names one after the date and the choices, in ``runs/``.")
    resume: str | None = setting(None, "Run folder to continue.")
    video: str | None = setting(None, "Of ``mode=evaluate``: film an episode into this file, ``<name>.gif`` or ``<name>.mp4``.")
    protocol: list[str] = setting(
        [], "Interventions of an experiment that ``method=`` leaves in place, such as a new head for each task."
    )
    plugins: list[str] = setting([], "Files or modules with what a user adds: agents, envs, metrics, interventions ...")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.video is not None and self.mode != "evaluate":
            raise ValueError(f"video={self.video} films an episode of mode=evaluate; in mode={self.mode} leave it out")
        require_choice("device", self.device.partition(":")[0], ("cpu", "cuda", "auto"))
        if self.threads != "auto" and not (self.threads.isdecimal() and 1 <= int(self.threads) <= _MOST_THREADS):
            raise ValueError(f"threads={self.threads} must be auto or a number between 1 and {_MOST_THREADS}")


@dataclass(frozen=True)
class Plan:
    """Everything a run is made of, checked and typed.

    Attributes:
        run: The settings at the top.
        agent_name: Key of ``plasticity.agents.registry.AGENTS``.
        agent: The agent's settings.
        env: The stream's settings.
        network: The network before any intervention.
        network_parts: Networks of parts, by name, that differ from it.
        optimizer: The optimizer's settings.
        optimizer_parts: Those of parts, by name, that differ from it.
        interventions: The settings of each method, by name, in order. A part acts through a copy of its own, which alone is
            attached to a network and holds state.
        metrics: Settings of the metrics.
        probe: Settings of the probe.
        evaluation: Settings of the evaluation.
        task_evaluation: Settings of the evaluation of supervised learners.
        checkpoint: Settings of the checkpoints.
        choices: Word by which each group was chosen, such as ``env: catch``; the agent's and env's names where none is known.
        config: The same as plain containers, as it is written to the run folder; what the settings of env and agent derive where
            something was left open is filled in, and the length of learning-rate schedules.
    """

    run: RunSettings
    agent_name: str
    agent: object
    env: object
    network: NetworkSpec
    network_parts: Mapping[str, NetworkSpec]
    optimizer: OptimizerSettings
    optimizer_parts: Mapping[str, OptimizerSettings]
    interventions: Mapping[str, Intervention]
    metrics: MetricsSettings
    probe: ProbeSettings
    evaluation: EvaluationSettings
    task_evaluation: TaskEvaluationSettings
    checkpoint: CheckpointSettings
    choices: Mapping[str, str]
    config: dict[str, Any]


def plan_from(config: Mapping[str, Any]) -> Plan:
    """Checks a composed config, as plain containers, and types it.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or makes no sense, or two methods refuse each other.
    """
    _require_sections(config)
    top = {key: value for key, value in config.items() if key in {field.name for field in fields(RunSettings)}}
    methods = config["interventions"]
    refuse_conflicts(methods)
    agent_name = _name(config, "agent", AGENTS)
    env_name = _name(config, "env", STREAMS)
    env: Any = build_settings(STREAMS[env_name], _without_name(config["env"]), "env")
    agent: Any = build_settings(AGENTS[agent_name].settings, _without_name(config["agent"]), "agent")
    filled_in = {"env": {"name": env_name, **asdict(env)}, "agent": {"name": agent_name, **asdict(agent)}}
    run = build_settings(RunSettings, top, "")
    filled_in["optimizer"] = _with_lengths(config["optimizer"], run.steps)
    optimizer, optimizer_parts = optimizers_of(filled_in)
    return Plan(
        run=run,
        agent_name=agent_name,
        agent=agent,
        env=env,
        network=_network(config["network"], "network"),
        network_parts=_networks_by_part(config["network"]),
        optimizer=optimizer,
        optimizer_parts=optimizer_parts,
        interventions={name: _method(name, values) for name, values in methods.items()},
        metrics=build_settings(MetricsSettings, config["metrics"], "metrics"),
        probe=build_settings(ProbeSettings, config["probe"], "probe"),
        evaluation=build_settings(EvaluationSettings, config["evaluation"], "evaluation"),
        task_evaluation=build_settings(TaskEvaluationSettings, config["task_evaluation"], "task_evaluation"),
        checkpoint=build_settings(CheckpointSettings, config["checkpoint"], "checkpoint"),
        choices=chosen_words(config),
        config={**config, **filled_in},
    )


def optimizers_of(config: Mapping[str, Any]) -> tuple[OptimizerSettings, dict[str, OptimizerSettings]]:
    """Returns the optimizer's settings of a run's resolved config, and those of parts that differ, by part."""
    return _optimizer(_without_parts(config["optimizer"]), "optimizer"), _optimizers_by_part(config["optimizer"])


def chosen_words(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the words by which agent, env and other groups of a composed config were chosen, such as ``env: catch``."""
    named = {group: str(config[group]["name"]) for group in ("agent", "env")}
    return named | {"network": str(config["network"]["torso"])} | dict(config.get("choices") or {})


def build_settings(cls: type[_Settings], values: Mapping[str, Any], where: str) -> _Settings:
    """Makes an instance of a settings dataclass from plain values.

    Args:
        cls: The dataclass; its annotations are the schema.
        values: Values by field name.
        where: Dotted place in the config, for messages.

    Raises:
        ValueError: In one line, naming the key and what is allowed.
    """
    prefix = f"{where}." if where else ""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ValueError(
                f"{prefix}{key} is unknown{did_you_mean(key, names)}; {where or 'the config'} has {', '.join(names)}"
            )
    schema, hints = OmegaConf.structured(cls), get_type_hints(cls)
    OmegaConf.set_readonly(schema, False)
    plain: dict[str, Any] = {}
    for key, value in values.items():
        group = _settings_class(hints[key])
        if group is not None and isinstance(value, Mapping):
            schema[key] = build_settings(group, value, f"{prefix}{key}")
            continue
        if isinstance(value, float) and value.is_integer() and int in (hints[key], *get_args(hints[key])):
            value = int(value)  # 1e6 is a float to the parser, and a whole number to the user
        if value != schema[key]:
            _require_finite(f"{prefix}{key}", value)
        plain[key] = value
    made: _Settings = OmegaConf.to_object(_filled(schema, plain, prefix))  # type: ignore[assignment]
    return made


def _filled(schema: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """Returns the schema with the values; they are tried one by one only if one of them is refused, to name it."""
    try:
        return OmegaConf.merge(schema, values)
    except OmegaConfBaseException:
        for key, value in values.items():
            try:
                schema = OmegaConf.merge(schema, {key: value})
            except OmegaConfBaseException as error:
                reason = f"must be a list, [{value}]" if "ListConfig" in str(error) else str(error).splitlines()[0]
                raise ValueError(f"{prefix}{key}={value}: {reason}") from error
        return schema


def _require_finite(name: str, value: object) -> None:
    """Raises ValueError for an infinite number, NaN, and a whole number that no tensor can hold, alone or in a list.

    What a mapping holds is left alone: arguments of third-party environments may be infinite.
    """
    for entry in value if isinstance(value, list | tuple) else [value]:
        if isinstance(entry, float) and not isfinite(entry):
            raise ValueError(f"{name}={entry} must be a finite number")
        if isinstance(entry, int) and abs(entry) > _LARGEST and name != "seed":
            raise ValueError(f"{name}={entry} must be at most {_LARGEST:g}")


def _settings_class(hint: Any) -> type | None:
    """Returns the dataclass that a field of this type holds, or may hold, if it is one."""
    return next((part for part in (hint, *get_args(hint)) if isinstance(part, type) and is_dataclass(part)), None)


def _require_sections(config: Mapping[str, Any]) -> None:
    """Raises ValueError unless everything that is made of settings is there: a user can delete it or set it to null."""
    methods = config.get("interventions")
    each = {f"interventions.{name}": values for name, values in methods.items()} if isinstance(methods, Mapping) else {}
    for name, values in ({section: config.get(section) for section in _SECTIONS} | each).items():
        if not isinstance(values, Mapping):
            raise ValueError(f"{name}={'null' if values is None else values} must hold settings, {name}.<setting>=<value>")
    absent = [field.name for field in fields(RunSettings) if field.name not in config]
    if absent:
        raise ValueError(f"{absent[0]} is deleted; it must have a value")


def _method(name: str, values: Mapping[str, Any]) -> Intervention:
    cls: type[Intervention] = INTERVENTIONS.named(name)
    return build_settings(cls, values, f"interventions.{name}")


def _name(config: Mapping[str, Any], group: str, known: Mapping[str, object]) -> str:
    name = str(config[group]["name"])
    require_choice(f"{group}.name", name, list(known))
    return name


def _network(values: Mapping[str, Any], where: str) -> NetworkSpec:
    """Returns the settings of the torso that ``torso`` names."""
    chosen = {key: value for key, value in values.items() if key not in (PARTS, "torso")}
    return build_settings(TORSOS.named(str(values["torso"])), chosen, where)


def _networks_by_part(values: Mapping[str, Any]) -> dict[str, NetworkSpec]:
    """Returns the networks of parts that have settings of their own; one of another torso inherits what all torsos share."""
    shared = {field.name for field in fields(NetworkSpec)}
    made = {}
    for name, own in _of_parts(values, "network").items():
        other = own.get("torso", values["torso"]) != values["torso"]
        common = {key: value for key, value in values.items() if not other or key in shared}
        made[name] = _network({**common, "torso": values["torso"], **own}, f"network.{PARTS}.{name}")
    return made


def _of_parts(values: Mapping[str, Any], where: str) -> Mapping[str, Mapping[str, Any]]:
    """Returns what parts set for themselves; ValueError if one of them is no settings."""
    parts: Mapping[str, Mapping[str, Any]] = values.get(PARTS) or {}
    for name, own in parts.items():
        if not isinstance(own, Mapping):
            raise ValueError(f"{where}.{PARTS}.{name}={own} must hold settings, {where}.{PARTS}.{name}.<setting>=<value>")
    return parts


def _optimizer(values: Mapping[str, Any], where: str) -> OptimizerSettings:
    """Makes the settings of an optimizer, of the class that it registered."""
    name = str(values.get("name", "adam"))
    require_choice(f"{where}.name", name, list(OPTIMIZERS))
    return build_settings(OPTIMIZERS[name].settings, values, where)


def _optimizers_by_part(values: Mapping[str, Any]) -> dict[str, OptimizerSettings]:
    """As ``_by_part``; a part with another optimizer inherits the common settings that this one has."""
    common, made = _without_parts(values), {}
    for part, own in _of_parts(values, "optimizer").items():
        entry = OPTIMIZERS.get(str(own.get("name", common["name"])))
        known = {field.name for field in fields(entry.settings)} if entry is not None else set(common)
        taken_over = {key: value for key, value in common.items() if key in known}
        made[part] = _optimizer({**taken_over, **own}, f"optimizer.{PARTS}.{part}")
    return made


def _with_lengths(values: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Returns the optimizer's settings, those of parts among them, with the run's steps where a schedule's are left open."""
    common = _with_length({}, _without_parts(values), steps)
    parts = {name: _with_length(common, own, steps) for name, own in _of_parts(values, "optimizer").items()}
    return {**common, PARTS: parts}


def _with_length(common: Mapping[str, Any], own: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Returns its own settings; ``schedule_steps`` among them if a schedule of the common ones and these needs it."""
    both = {**common, **own}
    left_open = both.get("schedule_steps") is None and not both.get("schedule_per_task")
    needed = left_open and both.get("schedule", "constant") != "constant"
    return {**own, "schedule_steps": steps} if needed else dict(own)


def _without_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != PARTS}


def _without_name(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "name"}
