"""Streams of tasks as a run builds them from settings: which examples they show, and that each continues exactly after a stop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plasticity.envs.experience import Examples, Experience
from plasticity.envs.factory import build_stream
from plasticity.envs.tasks.class_incremental import ClassIncrementalSettings
from plasticity.envs.tasks.class_pairs import ClassPairsSettings
from plasticity.envs.tasks.first_phases import FirstPhasesSettings
from plasticity.envs.tasks.slow_regression import SlowRegressionSettings
from plasticity.envs.tasks.target_offsets import TargetOffsetsSettings
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.envs.tasks.transformed_tasks import TaskStreamSettings

CPU = torch.device("cpu")
DIGITS: dict[str, Any] = {"dataset": "digits", "batch_size": 64}
PAIRS: dict[str, Any] = {"train_per_class": 20, "test_per_class": 9, "epochs_per_task": 2, "batch_size": 8}
STREAMS = {
    "permuted_pixels": TaskStreamSettings(**DIGITS, examples_per_task=150, epochs_per_task=2),
    "permuted_pixels_of_the_same": TaskStreamSettings(**DIGITS, examples=150, epochs_per_task=2),
    "random_labels_composite": TaskStreamSettings(
        **DIGITS, transformation="random_labels", mode="composite", fraction=0.5, batches_per_task=40
    ),
    "permuted_labels_growing": TaskStreamSettings(**DIGITS, transformation="permuted_labels", mode="growing"),
    "pairs": ClassPairsSettings(dataset="digits", **PAIRS),
    "fresh_pairs": ClassPairsSettings(dataset="digits", order="fresh", validation_per_class=3, **PAIRS),
    "class_incremental": ClassIncrementalSettings(**DIGITS, epochs_per_task=1, validation_per_class=5),
    "subset": FirstPhasesSettings(**DIGITS, kind="subset", epochs_per_task=2),
    "noisy_labels": FirstPhasesSettings(**DIGITS, kind="noisy_labels", phases=3, first_epochs=1, epochs_per_task=2),
    "wrong_labels_augmented": FirstPhasesSettings(
        **DIGITS, kind="wrong_labels", phases=2, first_epochs=1, epochs_per_task=2, flip_probability=0.5, crop_padding=1
    ),
    "target_offsets": TargetOffsetsSettings(**DIGITS, examples=300, epochs_per_task=2),
    "slow_regression": SlowRegressionSettings(examples_per_task=20),
}


def built(settings: object, seed: int = 0) -> TaskStream:
    stream, _ = build_stream(settings, seed, CPU)
    assert isinstance(stream, TaskStream)
    return stream


def shown(stream: TaskStream) -> Examples:
    """All that the next epoch shows, in an order that does not depend on it."""
    parts: list[Examples] = []
    while not parts or not stream.ends_epoch:
        batch = stream.advance().batch
        assert isinstance(batch, Examples)
        parts.append(batch)
    inputs = torch.cat([part.inputs for part in parts])
    targets = torch.cat([part.targets for part in parts])
    order = np.lexsort(inputs.flatten(1).numpy().T)
    return Examples(inputs[order], targets[order])


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("before", [2, 37, 74])
def test_every_stream_goes_on_exactly_from_the_middle_of_an_epoch(
    name: str,
    before: int,
    through_a_file: Callable[[dict[str, Any]], dict[str, Any]],
    same: Callable[[Experience, Experience], bool],
) -> None:
    stream = built(STREAMS[name])
    for _ in range(before):
        stream.advance()
    assert not stream.ends_epoch
    state = through_a_file(stream.state_dict())
    expected = [stream.advance() for _ in range(60)]
    resumed = built(STREAMS[name])
    resumed.load_state_dict(state)
    assert (resumed.step, resumed.task) == (before, state["task"] if STREAMS[name].announce_tasks else 0)
    for experience in expected:
        after = resumed.advance()
        assert same(after, experience)
        assert after.place is not None
        assert experience.place is not None
        assert after.place[:4] == experience.place[:4]
    assert len({experience.place.epoch for experience in expected if experience.place}) > 1 or stream.true_task > state["task"]


@pytest.mark.parametrize(
    "name", ["random_labels_composite", "pairs", "subset", "noisy_labels", "target_offsets", "slow_regression"]
)
def test_another_seed_is_another_stream(name: str) -> None:
    one, other = (built(STREAMS[name], seed).advance().batch for seed in (0, 1))
    assert not torch.equal(one[0], other[0])


def test_a_run_can_have_a_part_of_the_images_alone() -> None:
    stream = built(TaskStreamSettings(**DIGITS, transformation="none", examples=150))
    tasks = [shown(stream) for _ in range(3)]
    assert tasks[0].inputs.shape == (150, 1, 8, 8)
    assert all(torch.equal(task.inputs, tasks[0].inputs) and torch.equal(task.targets, tasks[0].targets) for task in tasks)
    assert not torch.equal(
        shown(built(TaskStreamSettings(**DIGITS, transformation="none", examples=150), 1)).inputs, tasks[0].inputs
    )
    drawn = built(TaskStreamSettings(**DIGITS, transformation="none", examples_per_task=150))
    assert not torch.equal(shown(drawn).inputs, shown(drawn).inputs)


def test_the_same_images_get_labels_of_their_own_in_each_task() -> None:
    stream = built(TaskStreamSettings(**DIGITS, transformation="random_labels", examples=400, epochs_per_task=2))
    first, again, second = shown(stream), shown(stream), shown(stream)
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.targets, again.targets)
    assert 20 < int((first.targets == second.targets).sum()) < 62  # 40 expected, standard deviation 6


def test_impossible_numbers_of_images_are_refused() -> None:
    for settings in (TaskStreamSettings(**DIGITS, examples=1798), TargetOffsetsSettings(**DIGITS, examples=0)):
        with pytest.raises(ValueError, match=r"^examples must be null or 1\.\.\d+, got (1798|0)$"):
            built(settings)


def test_a_folder_must_be_named_and_hold_enough(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^data_folder is null: env\.dataset=folder needs a folder"):
        built(ClassPairsSettings())
    for label in range(2):
        np.save(tmp_path / f"{label}.npy", np.full((55, 3, 8, 8), label, np.uint8))
    with pytest.raises(ValueError, match=r"0\.npy holds 55 images, and train_per_class=600 .* ask for 700"):
        built(ClassPairsSettings(data_folder=str(tmp_path)))
    fitting = ClassPairsSettings(data_folder=str(tmp_path), train_per_class=45, test_per_class=10, epochs_per_task=1)
    assert len(shown(built(fitting)).inputs) == 90
