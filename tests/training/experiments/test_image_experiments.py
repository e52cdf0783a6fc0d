"""The experiments over camera places and growing classes, and the vision transformer in those over images."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import run_agent
from plasticity.networks.factory import build_network
from plasticity.networks.spec import HeadSpec
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import Plan, plan_from

CONFIGS = Path(__file__).parents[3] / "configs"
SHORT = ["progress=false", "threads=1", "log_every_steps=1", "checkpoint.every_steps=0"]
OVER_IMAGES = {
    "cifar10_pairs": 32,
    "continual_imagenet": 32,
    "incremental_cifar10": 32,
    "incremental_cifar100": 32,
    "iwildcam": 64,
    "quick_draw_pairs": 28,
    "warm_start": 32,
}


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def plan(name: str, *words: str) -> Plan:
    return plan_from(compose_config([f"experiment={name}", *words], CONFIGS))


def rows(run: Path) -> dict[tuple[int, str], float]:
    with (run / "metrics.csv").open() as file:
        lines = list(csv.reader(file))[1:]
    return {(int(step), name): float(value) for step, name, value in lines if not name.startswith("time/")}


def train(run: Path, name: str, *words: str) -> dict[tuple[int, str], float]:
    assert run_agent.main([*SHORT, f"run_dir={run}", f"experiment={name}", *words]) == 0
    return rows(run)


@pytest.fixture
def cameras(tmp_path: Path) -> Path:
    """Writes photographs of five places, 12 to train on and 3 to test on, in the form of WILDS."""
    folder = tmp_path / "cameras"
    (folder / "train").mkdir(parents=True)
    generator = np.random.default_rng(0)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "split", "location_remapped", "location", "y", "category_id", "filename"])
        for number in range(5 * 15):
            place, label = number // 15, number % 3
            name = f"{number}.jpg"
            Image.fromarray(generator.integers(60 * label, 60 * label + 40, (9, 12, 3), np.uint8)).save(folder / "train" / name)
            writer.writerow([number, "id_test" if number % 15 > 11 else "train", place, place + 500, label, 1, name])
    return folder


def test_a_stopped_run_over_camera_places_goes_on_exactly(tmp_path: Path, cameras: Path) -> None:
    words = [f"env.data_folder={cameras}", "env.images_at_least=12", "env.places=3", "env.batches_per_task=5", "env.batch_size=5"]
    words += [
        "env.side=8",
        "network=mlp",
        "network.widths=[6]",
        "env.flip_probability=0.5",
        "task_evaluation.forward_transfer=true",
    ]
    whole = train(tmp_path / "whole", "iwildcam", *words, "steps=17")
    train(tmp_path / "stopped", "iwildcam", *words, "steps=7")  # in the middle of an epoch of the second task
    assert run_agent.main([f"resume={tmp_path / 'stopped'}", "steps=17"]) == 0
    assert rows(tmp_path / "stopped") == whole
    assert [whole[step, "task/number"] for step in (5, 10, 15)] == [0, 1, 2]
    assert {(5, "task/test_accuracy"), (10, "task/train_loss"), (15, "task/next_test_accuracy")} <= whole.keys()


def test_camera_places_are_those_of_the_paper() -> None:
    chosen = plan("iwildcam")
    env = chosen.env
    assert (env.places, env.batches_per_task, chosen.run.steps) == (8, 2000, 21 * 2000)  # type: ignore[attr-defined]
    assert (chosen.network.channels, chosen.network.widths) == ([32] * 4, [256])
    assert chosen.optimizer.learning_rate == 1e-4


def test_the_small_relative_of_class_incremental_cifar_has_all_its_parts() -> None:
    small, large = plan("incremental_cifar10"), plan("incremental_cifar100")
    for name in ("flip_probability", "crop_padding", "rotation_degrees", "masked"):
        assert getattr(small.env, name) == getattr(large.env, name)
    assert small.agent.restore_best is large.agent.restore_best is True  # type: ignore[attr-defined]
    assert small.optimizer.rate_schedule == large.optimizer.rate_schedule
    assert small.optimizer.schedule_per_task
    per_class = (5000 - small.env.validation_per_class) // small.env.batch_size  # type: ignore[attr-defined]
    assert small.run.steps == sum(classes * per_class * small.env.epochs_per_task for classes in range(2, 11))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", OVER_IMAGES)
def test_the_vision_transformer_takes_the_place_of_any_network_over_images(name: str) -> None:
    side = OVER_IMAGES[name]
    network = build_network(plan(name, "network=vit").network, (3, side, side), torch.uint8, HeadSpec("classification", 2), 0)
    assert network.units.names == ("block_1", "block_2", "block_3")
    assert [layer.units for layer in network.units.layers] == [256] * 3


@pytest.mark.slow
def test_pairs_of_classes_with_a_vision_transformer_and_load_balancing(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label in range(4):
        np.save(tmp_path / f"{label}.npy", generator.integers(60 * label, 60 * label + 60, (12, 3, 8, 8), np.uint8))
    words = [f"env.data_folder={tmp_path}", "env.train_per_class=10", "env.test_per_class=2", "env.batch_size=10"]
    words += ["network=vit", "network.widths=[8]", "intervention=[load_balancing]", "env.epochs_per_task=5"]
    values = train(tmp_path / "run", "continual_imagenet", *words, "metrics.every_steps=10", "steps=20")
    assert [values[step, "task/number"] for step in (10, 20)] == [0, 1]
    for layer in ("block_1", "block_2", "block_3"):
        assert 0 <= values[20, f"plasticity/dormant_fraction/learner/{layer}"] <= 1
