"""Tests of the torso: its formula by hand, its units, and runs that load it as a user would."""

import csv
import re
import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import torch

from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.registry import TORSOS
from plasticity.networks.spec import HeadSpec
from plasticity.settings.plugins import load_plugins
from plasticity.training.config.command_line import check_command_line
from plasticity.training.config.listing import list_lines
from plasticity.training.config.settings import plan_from

PLUGIN = Path(__file__).with_name("gated_mlp.py")
RUN_AGENT = Path(__file__).parents[2] / "run_agent.py"
CONFIGS = RUN_AGENT.with_name("configs")
SMALL = [
    "steps=60",
    "agent.warmup_env_steps=20",
    "log_every_steps=20",
    "metrics.every_steps=30",
    "metrics.names=[dormant_fraction]",
    "probe.every_steps=0",
    "progress=false",
    "threads=1",
]


def network_of(**settings: Any) -> Network:
    load_plugins([str(PLUGIN)])
    chosen: dict[str, Any] = {"widths": [4], "gated_units": 3, "gated_layers": 2}
    spec = TORSOS.named("gated_mlp")(**(chosen | settings))
    return build_network(spec, (5,), torch.float32, HeadSpec("q", 2), 0)


def test_the_output_by_hand() -> None:
    network = network_of(gated_layers=1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(0.5 if name.endswith("weight") else 0.0)
    # Inputs of 1 become a stream of 4 times 2.5. Each gate and each unit sees 5; a layer adds 0.5 * 3 * sigmoid(5) * 5.
    expected = 0.5 * 4 * (2.5 + 7.5 * torch.sigmoid(torch.tensor(5.0)))
    torch.testing.assert_close(network(torch.ones(1, 5)), expected.expand(1, 2))


def test_its_units_are_in_the_graph() -> None:
    network = network_of()
    assert network.units.names == ("gated_1", "gated_2")
    layer = network.units["gated_1"]
    assert layer.weight.tensor == "torso.layers.gated_1.inner.linear.weight"
    assert [reader.weight.tensor for reader in layer.consumers] == ["torso.layers.gated_1.outer.weight"]
    assert [block.name for block in network.blocks] == ["embed", "gated_1", "gated_2", "head"]
    assert torch.equal(network.tensor("torso.layers.gated_2.gate.bias"), torch.ones(3))
    with network.taps.record():
        network(torch.ones(6, 5))
    assert {name: tuple(post.shape) for name, post in network.taps.post.items()} == {
        "gated_1": (6, 3),
        "gated_2": (6, 3),
        "stream": (6, 4),
    }


def test_a_unit_without_its_column_does_not_matter() -> None:
    network, inputs = network_of(), torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    layer = network.units["gated_2"]
    with torch.no_grad():
        network.tensor(layer.consumers[0].weight.tensor)[:, 1] = 0.0
        before = network(inputs)
        network.tensor(layer.weight.tensor)[1] += 1.0
        assert torch.equal(network(inputs), before)
        network.tensor(layer.weight.tensor)[0] += 1.0
        assert not torch.equal(network(inputs), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [4, 4]}, "has one width and one activation"),
        ({"activations": ["crelu"]}, "has one width and one activation"),
        ({"spectral_layers": [1]}, "does not work with spectral_layers"),
        ({"gated_units": 0}, "network.gated_units=0 must be at least 1"),
    ],
)
def test_what_it_refuses(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_of(**settings)


def test_a_run_loads_it_and_resets_its_units(tmp_path: Path) -> None:
    words = [
        f"plugins=[{PLUGIN}]",
        "network=gated_mlp",
        "network.gated_units=6",
        "network.widths=[8]",
        f"run_dir={tmp_path / 'run'}",
    ]
    redo = ["intervention=[redo]", "interventions.redo.every_updates=5", "interventions.redo.threshold=0.9"]
    done = run([sys.executable, str(RUN_AGENT), *words, *redo, *SMALL], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [(row["name"], float(row["value"])) for row in csv.DictReader(file)]
    assert any("dormant_fraction" in name and "gated_2" in name for name, _ in rows)
    assert max(value for name, value in rows if name.startswith("redo/")) > 0


def test_parts_may_have_other_values() -> None:
    words = ["agent=sac", "env=gym", "network.torso=gated_mlp", "network.widths=[8]", "network.parts.critic.gated_units=5"]
    plan = plan_from(check_command_line([f"plugins=[{PLUGIN}]", *words], CONFIGS).config)
    settings = {name: (spec.torso, spec.widths, vars(spec)["gated_units"]) for name, spec in plan.network_parts.items()}
    assert settings == {"critic": ("gated_mlp", [8], 5)}
    assert (plan.network.torso, vars(plan.network)["gated_units"]) == ("gated_mlp", 64)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["network=gated_mlp", "network.gated_unit=6"], "network.gated_unit is unknown (did you mean gated_units?)"),
        (["network=gated_mlp", "network.channels=[4]"], "network.channels is unknown"),
        (["network=gated_mlp", "network.gated_units=0"], "network.gated_units=0 must be at least 1"),
        (["network.torso=gated_mpl"], "network.torso=gated_mpl is unknown (did you mean gated_mlp?)"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_command_line([f"plugins=[{PLUGIN}]", *words], CONFIGS)


def test_it_is_listed() -> None:
    load_plugins([str(PLUGIN)])
    assert any(line.startswith("gated_mlp ") and "multiplied by a gate" in line for line in list_lines("networks", CONFIGS))
