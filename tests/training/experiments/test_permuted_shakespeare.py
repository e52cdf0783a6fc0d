"""Permuted Shakespeare from the command line, on a text that the tests write."""

import csv
import random
from collections.abc import Iterator
from math import isnan
from pathlib import Path

import pytest
import torch

import run_agent
from plasticity.envs.tasks.permuted_text import ShakespeareSettings
from plasticity.networks.factory import build_network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.transformer import GPTSpec, TransformerBlock
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from

CONFIGS = Path(__file__).parents[3] / "configs"
WORDS = ["progress=false", "threads=1", "log_every_steps=1", "experiment=permuted_shakespeare", "network.widths=[8]"]
SMALL = ["env.sequence_tokens=7", "env.examples_per_task=5", "env.batch_size=2", "env.epochs_per_task=2"]
SEQUENCES = {1: 256, 4: 712, 16: 1984}  # 32 minibatches of 8 times scale^0.74: 89.26 and 248.99


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Writes a text of 60 words of 20 kinds."""
    draw = random.Random(0)
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "input.txt").write_text(" ".join(f"word{draw.randrange(20)}" for _ in range(60)))
    return folder


def train(run: Path, text: Path, *words: str) -> dict[tuple[int, str], float]:
    assert run_agent.main([*WORDS, *SMALL, f"run_dir={run}", f"env.data_folder={text}", *words]) == 0
    return rows(run)


def rows(run: Path) -> dict[tuple[int, str], float]:
    with (run / "metrics.csv").open() as file:
        lines = list(csv.reader(file))[1:]
    return {(int(step), name): float(value) for step, name, value in lines if not name.startswith("time/")}


@pytest.mark.parametrize("unit", ["word", "character"])
def test_a_short_run_evaluates_and_measures(tmp_path: Path, text: Path, unit: str) -> None:
    measured = ["metrics.every_steps=6", "metrics.inputs=4", "probe.every_steps=6"]
    values = train(tmp_path / "run", text, "steps=18", f"env.unit={unit}", *measured)
    assert [values[step, "task/number"] for step in (6, 12, 18)] == [0, 1, 2]
    for name in ("task/train_loss", "task/train_accuracy", "task/online_accuracy", "plasticity/dormant_fraction"):
        assert values[12, name] >= 0
    assert isnan(values[6, "probe/loss"])
    assert (
        "probe/loss: the probe fits functions of numbers, and the inputs are tokens" in (tmp_path / "run/notes.log").read_text()
    )
    assert (6, "task/train_loss") in values


def test_a_stopped_run_goes_on_exactly(tmp_path: Path, text: Path) -> None:
    words = ["intervention=[l2,self_normalized_resets]", "interventions.self_normalized_resets.initial_threshold_examples=4"]
    off = ["metrics.every_steps=0", "task_evaluation.fresh_every_tasks=1"]
    whole = train(tmp_path / "whole", text, *words, *off, "steps=16")
    train(tmp_path / "stopped", text, *words, *off, "steps=9")  # in the middle of an epoch of the second task
    assert run_agent.main([f"resume={tmp_path / 'stopped'}", "steps=16"]) == 0
    resumed = rows(tmp_path / "stopped")
    assert resumed.keys() == whole.keys()
    assert {key for key in whole if resumed[key] != whole[key] and not isnan(whole[key])} == set()
    assert (12, "relative/train_loss") in whole


def test_a_missing_text_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plasticity.envs.datasets.token_text.SOURCES", ())
    words = [*WORDS, f"run_dir={tmp_path / 'run'}", f"env.data_folder={tmp_path}"]
    assert run_agent.main(words) != 0
    assert "let env.data_folder name a folder with input.txt" in capsys.readouterr().err


@pytest.mark.parametrize("scale", SEQUENCES)
def test_the_scales_are_those_of_the_paper(scale: int) -> None:
    words = [] if scale == 1 else [f"network.scale={scale}"]
    plan = plan_from(compose_config(["experiment=permuted_shakespeare", *words], CONFIGS))
    root = round(scale**0.5)
    assert isinstance(plan.env, ShakespeareSettings)
    assert (plan.env.examples_per_task, plan.env.batch_size, plan.env.sequence_tokens) == (SEQUENCES[scale], 8, 128)
    assert SEQUENCES[scale] // 8 == int(32 * scale**0.74)
    assert plan.run.steps == 500 * plan.env.epochs_per_task * SEQUENCES[scale] // 8
    assert plan.env.epochs_per_task == 100
    network = build_network(plan.network, (128,), torch.int64, HeadSpec("classification", 100), 0)
    assert [layer.units for layer in network.units.layers] == [256 * root]
    assert network.get_parameter("torso.positions").shape == (128, 32 * root)
    assert {block.attention.heads for block in network.modules() if isinstance(block, TransformerBlock)} == {2 * root}


def test_a_scale_is_the_network_of_those_widths_and_heads() -> None:
    head, seed = HeadSpec("classification", 11), 3
    scaled = build_network(GPTSpec(widths=[6], attention_heads=2, scale=9), (5,), torch.int64, head, seed)
    spelled_out = build_network(GPTSpec(widths=[18], attention_heads=6), (5,), torch.int64, head, seed)
    for name, value in spelled_out.named_parameters():
        assert torch.equal(scaled.get_parameter(name), value)
    tokens = torch.arange(10).view(2, 5)
    assert torch.equal(scaled(tokens), spelled_out(tokens))


def test_sequences_and_steps_that_are_said_stay_as_they_are() -> None:
    words = ["experiment=permuted_shakespeare", "network.scale=16", "env.examples_per_task=64"]
    config = compose_config(words, CONFIGS)
    assert (config["env"]["examples_per_task"], config["steps"]) == (64, 400_000)
    assert compose_config([*words, "steps=7"], CONFIGS)["steps"] == 7


def test_a_scale_without_a_whole_root_is_one_line(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS, *SMALL, f"run_dir={tmp_path / 'run'}", f"env.data_folder={text}", "network.scale=2"]
    assert run_agent.main(words) == 2
    assert "network.scale=2 must be a square number, 1, 4, 9, 16" in capsys.readouterr().err
