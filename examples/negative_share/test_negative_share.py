"""Tests of the plugin: its values by hand, and a run that loads it as a user would."""

import csv
import sys
from pathlib import Path
from subprocess import run

import pytest
import torch

from plasticity.metrics.metric import CATALOGUE
from plasticity.metrics.view import LayerView, PartView
from plasticity.networks.layers.activations import activation_named
from plasticity.settings.plugins import load_plugins

PLUGIN = Path(__file__).with_name("negative_share.py")
RUN_AGENT = Path(__file__).parents[2] / "run_agent.py"


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    load_plugins([str(PLUGIN)])


def layer(name: str, pre: torch.Tensor) -> LayerView:
    return LayerView(name, activation_named("relu"), "relu", pre, pre.relu())


def test_values_by_hand() -> None:
    # Two units of which the first is below 0 on 1 of 2 inputs and the second on both: 3/4. One unit that never is: 0.
    # Pooled, each of the three units counts once: (1/2 + 1 + 0) / 3.
    first, second = layer("dense_1", torch.tensor([[-1.0, -2.0], [3.0, -4.0]])), layer("dense_2", torch.tensor([[1.0], [0.0]]))
    values = CATALOGUE["negative_share"].measure([PartView("q", None, (first, second))])  # type: ignore[arg-type]
    assert {name: float(value) for name, value in values.items()} == pytest.approx(  # type: ignore[arg-type]
        {"": 0.5, "/q/dense_1": 0.75, "/q/dense_2": 0.0}
    )


def test_positions_of_a_convolution_count() -> None:
    pre = torch.tensor([[[[-1.0, 1.0], [1.0, 1.0]]]])  # one input, one unit, four positions
    values = CATALOGUE["negative_share"].measure([PartView("q", None, (layer("conv_1", pre),))])  # type: ignore[arg-type]
    assert float(values["/q/conv_1"]) == 0.25  # type: ignore[arg-type]


def test_a_run_loads_it_and_logs_it(tmp_path: Path) -> None:
    words = [f"plugins=[{PLUGIN}]", "metrics.names=[negative_share]", "metrics.every_steps=40"]
    small = ["steps=40", "agent.warmup_env_steps=20", "probe.every_steps=0", "progress=false", f"run_dir={tmp_path / 'run'}"]
    done = run([sys.executable, str(RUN_AGENT), *words, *small], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run" / "metrics.csv").open() as file:
        logged = {row["name"]: float(row["value"]) for row in csv.DictReader(file) if "negative_share" in row["name"]}
    assert logged.keys() == {f"plasticity/negative_share{layer}" for layer in ("", "/q/dense_1", "/q/dense_2")}
    layers = [value for name, value in logged.items() if name.count("/") == 3]
    assert logged["plasticity/negative_share"] == pytest.approx(sum(layers) / 2, abs=1e-5)  # both layers are equally wide
    assert all(0 < value < 1 for value in logged.values())
