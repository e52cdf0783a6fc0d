"""Every default has one source, its class: what is composed differs from it only by what a file names."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from plasticity.agents.registry import AGENTS
from plasticity.envs.registry import STREAMS
from plasticity.metrics.observer import MetricsSettings
from plasticity.metrics.probe import ProbeSettings
from plasticity.networks.registry import TORSOS
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import CheckpointSettings, RunSettings
from plasticity.training.evaluation.episodes import EvaluationSettings
from plasticity.training.evaluation.task_evaluation import TaskEvaluationSettings

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SECTIONS = {
    "probe": ProbeSettings,
    "evaluation": EvaluationSettings,
    "task_evaluation": TaskEvaluationSettings,
    "checkpoint": CheckpointSettings,
}
GROUPS = {"agent", "env", "network", "optimizer", "metrics"}


def defaults(settings: type) -> dict[str, Any]:
    """The settings that the fields of the class declare."""
    values = OmegaConf.to_container(OmegaConf.structured(settings))
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}


def named(group: str, choice: str) -> dict[str, Any]:
    """What a file, and those that it starts from, set."""
    path = CONFIGS / group / f"{choice}.yaml"
    if not path.exists():
        return {}
    values: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    for base in values.pop("defaults", []):
        values = (named(group, base) if base != "_self_" else {}) | values
    return values


def settings_of(group: str, composed: dict[str, Any]) -> dict[str, Any]:
    if group == "agent":
        return {"name": composed["name"], **defaults(AGENTS[composed["name"]].settings)}
    if group == "env":
        return {"name": composed["name"], **defaults(STREAMS[composed["name"]])}
    if group == "metrics":
        return defaults(MetricsSettings)
    if group == "network":
        return {"torso": composed["torso"], **defaults(TORSOS[composed["torso"]]), "parts": {}}
    return {**defaults(OptimizerSettings), "parts": {}}


@pytest.fixture(scope="module")
def default_config() -> dict[str, Any]:
    """What ``--cfg job`` prints."""
    command = [sys.executable, str(ROOT / "run_agent.py"), "--cfg", "job"]
    printed: dict[str, Any] = yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return printed


def test_what_the_command_prints_are_the_defaults_of_the_classes(default_config: dict[str, Any]) -> None:
    top = {name: default_config[name] for name in (field.name for field in fields(RunSettings))}
    assert top == defaults(RunSettings)
    for name, settings in SECTIONS.items():
        assert default_config[name] == defaults(settings), name
    for group, choice in {"agent": "dqn", "env": "bandit", "network": "mlp", "optimizer": "adam", "metrics": "default"}.items():
        assert default_config[group] == settings_of(group, default_config[group]), group
        assert named(group, choice) == {}, f"configs/{group}/{choice}.yaml repeats a default"
    assert default_config["interventions"] == {}
    assert set(default_config) == {*top, *SECTIONS, *GROUPS, "interventions"}


def test_the_main_file_names_no_setting_of_a_class() -> None:
    assert set(yaml.safe_load((CONFIGS / "config.yaml").read_text())) == {"defaults", "hydra"}


CHOICES = [(group, path.stem) for group in sorted(GROUPS) for path in sorted((CONFIGS / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_choice_is_its_class_and_what_its_file_names(group: str, choice: str) -> None:
    composed = compose_config([f"{group}={choice}"], CONFIGS)
    expected = settings_of(group, composed[group]) | named(group, choice)
    assert composed[group] == expected
    assert composed["choices"][group] == choice
    if group in ("agent", "env"):
        assert "name" not in named(group, choice)
