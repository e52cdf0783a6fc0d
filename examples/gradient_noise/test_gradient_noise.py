"""Tests of the plugin: its formula by hand, and a run that loads it as a user would."""

import csv
import sys
from pathlib import Path
from subprocess import run
from types import ModuleType

import pytest
import torch

from plasticity.interventions.registry import INTERVENTIONS
from plasticity.settings.plugins import load_plugins

PLUGIN = Path(__file__).with_name("gradient_noise.py")
RUN_AGENT = Path(__file__).parents[2] / "run_agent.py"


@pytest.fixture(scope="module", autouse=True)
def plugin() -> ModuleType:
    load_plugins([str(PLUGIN)])
    return sys.modules[INTERVENTIONS.named("gradient_noise").__module__]


def test_scale_by_hand(plugin: ModuleType) -> None:
    # sqrt(0.04 / 1) = 0.2 at first; at update 16 with decay 0.5 the variance is 0.04 / 4 = 0.01.
    assert plugin.noise_scale(1, scale=0.04, decay=0.5) == pytest.approx(0.2)
    assert plugin.noise_scale(16, scale=0.04, decay=0.5) == pytest.approx(0.1)


def test_noise_has_the_deviation_asked_for(plugin: ModuleType) -> None:
    gradient = torch.full((200, 200), 3.0)
    plugin.add_noise([gradient], 0.5, torch.Generator().manual_seed(0))
    # The error of a standard deviation over 40,000 draws is about 0.5 / sqrt(80,000) = 0.002.
    assert gradient.mean().item() == pytest.approx(3.0, abs=0.01)
    assert gradient.std().item() == pytest.approx(0.5, abs=0.01)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"gradient_noise\.scale=-1"):
        INTERVENTIONS.named("gradient_noise")(scale=-1)  # type: ignore[call-arg]


def test_a_run_loads_it_and_logs_it(tmp_path: Path) -> None:
    words = [f"plugins=[{PLUGIN}]", "intervention=[gradient_noise]", "interventions.gradient_noise.scale=0.04"]
    small = [
        "steps=60",
        "agent.warmup_env_steps=20",
        "log_every_steps=20",
        "metrics=none",
        "probe.every_steps=0",
        "progress=false",
        f"run_dir={tmp_path / 'run'}",
    ]
    done = run([sys.executable, str(RUN_AGENT), *words, *small], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run" / "metrics.csv").open() as file:
        logged = {row["name"] for row in csv.DictReader(file)}
    assert "gradient_noise/standard_deviation" in logged


@pytest.mark.slow
def test_a_misspelt_field_is_named(tmp_path: Path) -> None:
    words = [f"plugins=[{PLUGIN}]", "intervention=[gradient_noise]", "interventions.gradient_noise.scael=0.04"]
    done = run([sys.executable, str(RUN_AGENT), *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: interventions.gradient_noise.scael is unknown (did you mean scale?)")
