"""The experiments of continual supervised learning have the numbers of their papers, and train on small data of their form."""

import csv
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import run_agent
from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.optimizers.schedule import Moment
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from

CONFIGS = Path(__file__).parents[3] / "configs"
SHORT = ["progress=false", "threads=1", "log_every_steps=1", "checkpoint.every_steps=0", "metrics.every_steps=0"]
DIGITS = ["env.dataset=digits", "env.pixel_mean=[]", "env.pixel_std=[]"]
RESNET = ["network.channels=[4,4,4,4]", "network.residual_blocks=1"]
PAIRS = ["env.train_per_class=20", "env.test_per_class=5", "env.batch_size=8"]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@cache
def plan(name: str, *words: str) -> Any:
    return plan_from(compose_config([f"experiment={name}", *words], CONFIGS))


def network(name: str, shape: tuple[int, ...], head: str, outputs: int) -> Network:
    dtype = torch.uint8 if len(shape) == 3 else torch.float32
    return build_network(plan(name).network, shape, dtype, HeadSpec(head, outputs), 0)


def train(folder: Path, name: str, *words: str) -> dict[str, list[tuple[int, float]]]:
    """Runs an experiment and returns the rows of metrics.csv by name."""
    assert run_agent.main([*SHORT, f"run_dir={folder / 'run'}", f"experiment={name}", "probe.every_steps=0", *words]) == 0
    rows: dict[str, list[tuple[int, float]]] = {}
    with (folder / "run" / "metrics.csv").open() as file:
        for row in list(csv.reader(file))[1:]:
            rows.setdefault(row[1], []).append((int(row[0]), float(row[2])))
    return rows


def steps_of(rows: dict[str, list[tuple[int, float]]], name: str) -> list[int]:
    return [step for step, _ in rows[name]]


# Small runs from the command line


def test_continual_imagenet_from_a_folder_of_classes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label in range(4):
        np.save(tmp_path / f"{label}.npy", generator.integers(60 * label, 60 * label + 60, (12, 3, 32, 32), np.uint8))
    words = [f"env.data_folder={tmp_path}", "env.train_per_class=10", "env.test_per_class=2", "env.batch_size=10"]
    small = ["network.channels=[4,4,4]", "network.widths=[8,8]"]
    rows = train(tmp_path, "continual_imagenet", *words, *small, "env.epochs_per_task=4", "steps=24")
    assert steps_of(rows, "task/test_accuracy") == steps_of(rows, "task/number") == [8, 16, 24]
    assert [value for _, value in rows["task/number"]] == [0, 1, 2]
    assert any(name.startswith("reset/") for name in rows)


def test_class_incremental_cifar_on_digits(tmp_path: Path) -> None:
    words = [*DIGITS, *RESNET, "env.classes_per_task=3", "env.validation_per_class=20", "env.epochs_per_task=2", "steps=30"]
    rows = train(tmp_path, "incremental_cifar100", *words, "task_evaluation.every_epochs=1")
    assert steps_of(rows, "task/number")[0] == 10  # 3 classes of about 130 training images in minibatches of 90
    for part in ("train", "validation", "test"):
        assert f"task/{part}_accuracy" in rows
        assert f"epoch/{part}_accuracy" in rows
    best = max(value for step, value in rows["train/validation_accuracy"] if step <= 10)
    assert dict(rows["task/validation_accuracy"])[10] == pytest.approx(best, abs=1e-6)


def test_a_warm_start_on_digits(tmp_path: Path) -> None:
    words = [*DIGITS, *RESNET, "env.epochs_per_task=1", "env.batch_size=250", "steps=9"]
    rows = train(tmp_path, "warm_start", *words, "task_evaluation.fresh_every_tasks=2", "task_evaluation.every_epochs=0")
    assert steps_of(rows, "task/test_accuracy") == [3, 9]
    assert steps_of(rows, "relative/test_accuracy") == [9]


def test_random_labels_of_digits_for_a_number_of_minibatches(tmp_path: Path) -> None:
    words = [*DIGITS, "env.batches_per_task=20", "env.mode=growing", "steps=40", "network.widths=[8]"]
    rows = train(tmp_path, "random_label_cifar", *words)
    assert steps_of(rows, "task/train_accuracy") == [20, 40]
    assert "task/test_accuracy" not in rows


# A stopped run continues as if it had not been stopped


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "incremental_cifar10",
            [*DIGITS, "env.validation_per_class=20", "agent.restore_best=true", "optimizer.schedule_milestones=[0.3]"],
        ),
        ("slowly_changing_regression", ["env.examples_per_task=9"]),
        ("target_offsets", [*DIGITS, "network.pools=[2]", "env.examples=50", "env.batch_size=8", "env.epochs_per_task=2"]),
        pytest.param(
            "cifar10_pairs", [*DIGITS, "network.kernel_sizes=[3]", "network.paddings=[1]", *PAIRS], marks=pytest.mark.slow
        ),
        pytest.param("noisy_start", [*DIGITS, *RESNET, "env.phases=3", "env.batch_size=250"], marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_exactly(tmp_path: Path, name: str, words: list[str]) -> None:
    small = ["network.channels=[4]", "network.widths=[6]", "env.epochs_per_task=3", "task_evaluation.every_tasks=1"]
    common = [*words, *(word for word in small if word.split("=")[0] not in {w.split("=")[0] for w in words})]
    if name == "slowly_changing_regression":
        common.remove("network.channels=[4]")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    rows = train(whole, name, *common, "steps=43")
    train(stopped, name, *common, "steps=20")
    assert run_agent.main([f"resume={stopped / 'run'}", "steps=43"]) == 0
    with (stopped / "run" / "metrics.csv").open() as file:
        resumed = {(int(step), key): value for step, key, value in list(csv.reader(file))[1:] if not key.startswith("time/")}
    expected = {(step, key): value for key, values in rows.items() for step, value in values if not key.startswith("time/")}
    assert {place: float(value) for place, value in resumed.items()} == expected
    assert any(key.startswith("task/") and step > 20 for step, key in expected)


# The numbers of the papers


@pytest.mark.parametrize(
    ("name", "tasks", "steps_per_task"),
    [
        ("online_permuted_mnist", 500, 10_000),
        ("online_permuted_mnist_mixed", 500, 10_000),
        ("online_permuted_mnist_full", 800, 60_000),
        ("continual_imagenet", 2000, 3000),
        ("cifar10_pairs", 2000, 3000),
        ("quick_draw_pairs", 500, 2500),
        ("slowly_changing_regression", 300, 10_000),
        ("random_label_cifar", 20, 75_000),
        ("random_label_mnist", 50, 30_000),
        ("target_offsets", 2, 10_000),
        ("snr_permuted_mnist", 500, 625),
        ("snr_random_label_cifar", 50, 30_000),
        ("snr_continual_imagenet", 500, 120),
    ],
)
def test_runs_are_a_whole_number_of_tasks(name: str, tasks: int, steps_per_task: int) -> None:
    env = plan(name).env
    count = getattr(env, "examples_per_task", None) or getattr(env, "examples", None) or 0
    if hasattr(env, "train_per_class"):
        count = env.classes_per_task * env.train_per_class
    assert (env.batches_per_task or env.epochs_per_task * -(-count // env.batch_size)) == steps_per_task
    assert plan(name).run.steps == tasks * steps_per_task


def test_class_incremental_cifar_has_25_steps_an_epoch_for_each_five_classes() -> None:
    chosen = plan("incremental_cifar100")
    env, agent = chosen.env, chosen.agent
    per_class = 500 - env.validation_per_class
    assert chosen.run.steps == sum(200 * (5 * k * per_class // env.batch_size) for k in range(1, 21))
    schedule = chosen.optimizer.rate_schedule
    assert (schedule.kind, schedule.per_task, agent.restore_best) == ("steps", True, True)
    for batches in (25 * 200, 20 * 25 * 200):  # of the first task, and of the last
        ends = [0, 60 * batches // 200, 120 * batches // 200, 160 * batches // 200, batches]
        for rate, begin, end in zip([0.1, 0.02, 0.004, 0.0008], ends, ends[1:], strict=False):
            moments = [Moment(0, step, batches) for step in (begin + 1, end)]
            assert [0.1 * schedule.multiplier(moment) for moment in moments] == pytest.approx([rate] * 2, rel=1e-12)
    assert (env.flip_probability, env.crop_padding, env.rotation_degrees) == (0.5, 4, 15.0)
    assert (chosen.optimizer.name, chosen.optimizer.learning_rate, chosen.optimizer.momentum) == ("sgd", 0.1, 0.9)
    decay = chosen.interventions["l2"]
    assert (decay.coefficient, decay.include) == (5e-4, "all")
    parameters = network("incremental_cifar100", (3, 32, 32), "classification", 100).parameters()
    assert sum(parameter.numel() for parameter in parameters) == 11_224_932


def test_a_warm_start_is_350_epochs_of_half_the_data_and_350_of_all() -> None:
    assert plan("warm_start").run.steps == 350 * (-(-25_000 // 128) + -(-50_000 // 128))
    noisy = plan("noisy_start")
    assert noisy.run.steps == (1000 + 3000) * -(-50_000 // 128)
    assert (noisy.env.phases * noisy.env.first_epochs, noisy.env.epochs_per_task, noisy.env.fraction) == (1000, 3000, 0.99)


def test_continual_imagenet_has_the_network_and_head_of_the_paper() -> None:
    chosen = plan("continual_imagenet")
    parameters = network("continual_imagenet", (3, 32, 32), "classification", 2).parameters()
    assert sum(parameter.numel() for parameter in parameters) == 177_218
    reset = chosen.interventions["reset"]
    assert (reset.last_layers, reset.head, reset.optimizer_state, reset.at_task_switch) == (1, "zero", "keep", True)
    assert (chosen.optimizer.learning_rate, chosen.optimizer.momentum, chosen.env.announce_tasks) == (0.01, 0.9, True)
    assert list(plan("continual_imagenet", "intervention=[continual_backprop]").interventions) == ["continual_backprop", "reset"]


def test_the_mixed_network_has_a_strategy_for_each_layer() -> None:
    chosen = plan("online_permuted_mnist_mixed")
    assert (chosen.network.widths, chosen.network.activations) == ([100] * 5, ["relu", "relu", "tanh", "tanh", "relu"])
    assert chosen.interventions["activation_rescale"].strategy == "per_activation"
    plain = plan("online_permuted_mnist_mixed", "intervention=[]")
    assert (plain.interventions, plain.optimizer, plain.env) == ({}, plan("online_permuted_mnist").optimizer, chosen.env)


def test_the_same_images_come_in_every_task_where_the_papers_have_them_so() -> None:
    for name, images in (("online_permuted_mnist", 10_000), ("random_label_mnist", 1200)):
        assert (plan(name).env.examples, plan(name).env.examples_per_task) == (images, None)


def test_the_benchmarks_of_self_normalized_resets_have_its_networks_and_both_optimizers() -> None:
    for name in ("snr_random_label_cifar", "snr_continual_imagenet"):
        spec = plan(name).network
        assert (spec.channels, spec.kernel_sizes, spec.paddings, spec.widths) == ([16, 16], [5], [0], [100, 100])
    assert plan("snr_permuted_mnist").network.widths == [100, 100]
    for name in ("snr_permuted_mnist", "snr_random_label_cifar", "snr_continual_imagenet"):
        adam, sgd = plan(name).optimizer, plan(name, "optimizer=sgd", "optimizer.learning_rate=0.01").optimizer
        assert (adam.name, adam.learning_rate) == ("adam", 0.001)
        assert (sgd.name, sgd.learning_rate, sgd.momentum) == ("sgd", 0.01, 0.0)
    assert list(plan("snr_continual_imagenet").interventions) == ["reset"]


def test_networks_have_the_published_numbers_of_parameters() -> None:
    full = network("online_permuted_mnist_full", (1, 28, 28), "classification", 10)
    assert sum(parameter.numel() for parameter in full.parameters()) == 9_594_010
    small = network("slowly_changing_regression", (20,), "regression", 1)
    assert sum(parameter.numel() for parameter in small.parameters()) == 111
