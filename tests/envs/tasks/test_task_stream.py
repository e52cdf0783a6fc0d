import io
from typing import Any

import pytest
import torch

from plasticity.envs.datasets.augmentation import Augmentation
from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.experience import Examples, Experience
from plasticity.envs.stream import Stream
from plasticity.envs.tasks.preparation import Preparation
from plasticity.envs.tasks.schedule import Schedule
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.envs.tasks.transformations import TRANSFORMATIONS
from plasticity.envs.tasks.transformed_tasks import TaskStreamSettings, TransformedTasks
from plasticity.settings.seeding import torch_generator


def numbers(count: int = 7) -> Dataset:
    """Example i holds the distinct values 6i to 6i + 5 and has label i % 3."""
    inputs = torch.arange(6 * count, dtype=torch.uint8).reshape(count, 1, 2, 3)
    return Dataset("numbers", inputs, torch.arange(count) % 3, 3)


def stream(**changes: Any) -> TaskStream:
    settings: dict[str, Any] = {
        "dataset": numbers(),
        "transformation": "none",
        "examples_per_task": 5,
        "epochs_per_task": 2,
        "batch_size": 2,
        "seed": 0,
        "announce_tasks": True,
    }
    settings |= changes
    tasks = TaskStreamSettings(transformation=settings["transformation"], examples_per_task=settings["examples_per_task"])
    source = TransformedTasks(settings["dataset"], tasks, settings["seed"])
    schedule = Schedule(settings["epochs_per_task"], settings["batch_size"], settings["announce_tasks"])
    return TaskStream(source, schedule, settings["seed"])


def examples(experience: Experience) -> Examples:
    assert isinstance(experience.batch, Examples)
    return experience.batch


def which(batch: Examples) -> list[int]:
    """The numbers of the (not permuted) examples of a minibatch."""
    return (batch.inputs[:, 0, 0, 0].to(torch.int64) // 6).tolist()


def take(source: TaskStream, count: int) -> list[Experience]:
    return [source.advance() for _ in range(count)]


def epochs(source: TaskStream, count: int) -> list[Examples]:
    """Whole epochs, each put together from three minibatches of five examples."""
    parts = [[examples(experience) for experience in take(source, 3)] for _ in range(count)]
    return [Examples(torch.cat([p.inputs for p in part]), torch.cat([p.targets for p in part])) for part in parts]


def test_sizes_tasks_and_statistics_by_hand() -> None:
    source = stream()
    seen = take(source, 14)
    assert [len(examples(experience).inputs) for experience in seen] == [2, 2, 1] * 4 + [2, 2]
    assert [experience.task for experience in seen] == [0] * 6 + [1] * 6 + [2] * 2
    assert {step: dict(experience.stats) for step, experience in enumerate(seen) if experience.stats} == {
        0: {"stream/task": 0.0},
        6: {"stream/task": 1.0},
        12: {"stream/task": 2.0},
    }
    assert (source.step, source.task) == (14, 2)


def drifting(drift_steps: int, dataset: Dataset, batch_size: int = 10, epochs: int = 2, **settings: Any) -> TaskStream:
    source = TransformedTasks(dataset, TaskStreamSettings(**settings), seed=0)
    return TaskStream(source, Schedule(epochs, batch_size, drift_steps=drift_steps), seed=0)


def test_a_drift_shows_fewer_and_fewer_examples_of_the_task_before() -> None:
    """Example i of 1000 is of class i % 4; a task has 2 epochs of 100 minibatches, 160 of them mixed."""
    inputs = torch.arange(1000, dtype=torch.float32).view(-1, 1, 1, 1) / 1000
    dataset = Dataset("numbered", inputs, torch.arange(1000) % 4, 4)
    sudden, gradual = (drifting(steps, dataset, transformation="permuted_labels") for steps in (0, 160))
    maps = [sudden.source.task(task).train.targets[:4] for task in range(3)]
    assert [labels.tolist() for labels in maps] == [[2, 0, 1, 3], [2, 1, 3, 0], [3, 0, 2, 1]]  # one class stays, then none
    for task in range(3):
        is_new = []
        for _ in range(200):
            plain, mixed = examples(sudden.advance()), examples(gradual.advance())
            assert torch.equal(plain.inputs, mixed.inputs)
            place = (mixed.inputs.flatten() * 1000).round().long() % 4
            assert torch.equal(plain.targets, maps[task][place])
            new, old = mixed.targets == maps[task][place], mixed.targets == maps[max(task - 1, 0)][place]
            assert (new | old).all()
            is_new.append(new[maps[task][place] != maps[max(task - 1, 0)][place]].float())
        assert gradual.task == task
        if not task:
            continue
        assert is_new[0].sum() == 0
        assert all(part.all() for part in is_new[160:])
        # by quarters of the drift the mean chance is 1/8, 3/8, 5/8, 7/8 (minus 1/320); of 300 draws or 400, four standard errors
        for quarter, expected in enumerate((0.125, 0.375, 0.625, 0.875)):
            drawn = torch.cat(is_new[40 * quarter : 40 * quarter + 40])
            assert abs(drawn.mean().item() - expected) < 4 * (expected * (1 - expected) / len(drawn)) ** 0.5


def test_a_drift_between_tasks_of_other_sizes_draws_rows_of_the_task_before() -> None:
    dataset = numbers(30)
    source = drifting(3, dataset, batch_size=4, transformation="none", mode="growing")
    plain = drifting(0, dataset, batch_size=4, transformation="none", mode="growing")
    old = set(which(plain.source.task(0).train))
    for _ in range(plain.minibatches(0)):
        assert torch.equal(examples(source.advance()).inputs, examples(plain.advance()).inputs)
    first = which(examples(source.advance()))
    assert set(first) <= old
    assert set(which(plain.source.task(1).train)) > old


def test_a_drift_resumes_exactly_and_must_fit_into_a_task() -> None:
    dataset = numbers(40)
    whole = drifting(6, dataset, batch_size=7, transformation="permuted_pixels")
    take(whole, 16)  # 6 minibatches an epoch, 12 a task: four into the drift
    state, expected = whole.state_dict(), take(whole, 20)
    resumed = drifting(6, dataset, batch_size=7, transformation="permuted_pixels")
    resumed.load_state_dict(state)
    for ours, theirs in zip(take(resumed, 20), expected, strict=True):
        assert torch.equal(examples(ours).inputs, examples(theirs).inputs)
        assert torch.equal(examples(ours).targets, examples(theirs).targets)
    with pytest.raises(ValueError, match=r"drift_steps=13 must lie in 0\.\.12, the minibatches of a task"):
        drifting(13, dataset, batch_size=7)
    with pytest.raises(ValueError, match="drift_steps must be at least 0, got -1"):
        Schedule(drift_steps=-1)


def test_a_peek_shows_what_is_coming_and_moves_nothing() -> None:
    """Five examples a task, two epochs in minibatches of two: three minibatches an epoch, six a task."""
    for steps in range(14):
        source, other = stream(transformation="permuted_pixels"), stream(transformation="permuted_pixels")
        take(source, steps), take(other, steps)
        before, generator = dict(source.state_dict()), torch.get_rng_state()
        shown = source.peek(3)
        assert source.state_dict() == before
        assert torch.equal(torch.get_rng_state(), generator)
        left = 5 - 2 * (steps % 3)  # of the epoch of the next minibatch
        assert len(shown.targets) == len(shown.inputs) == min(3, left)
        coming = [examples(experience) for experience in take(source, 3)]
        count = len(shown.inputs)
        assert torch.equal(shown.inputs, torch.cat([batch.inputs for batch in coming])[:count])
        assert torch.equal(shown.targets, torch.cat([batch.targets for batch in coming])[:count])
        for batch, same in zip(coming, (examples(experience) for experience in take(other, 3)), strict=True):
            assert torch.equal(batch.inputs, same.inputs)


def test_a_peek_at_the_end_of_a_task_shows_the_next_one() -> None:
    source = stream(transformation="permuted_pixels")
    take(source, 6)
    assert torch.equal(source.peek(100).inputs, source.beginning(1).peek(5).inputs)
    assert not torch.equal(source.peek(100).inputs, source.beginning(0).peek(5).inputs)
    assert source.task == 0


def test_the_task_changes_with_the_first_minibatch_of_the_next_and_not_before() -> None:
    source = stream()
    take(source, 6)
    assert source.task == 0
    source.advance()
    assert source.task == 1


def test_each_epoch_shows_each_example_of_the_task_once_in_a_new_order() -> None:
    first, second, third = (which(epoch) for epoch in epochs(stream(), 3))
    assert len(set(first)) == 5
    assert sorted(first) == sorted(second)
    assert first != second
    assert len(set(third)) == 5
    assert sorted(third) != sorted(first)  # the next task draws another five of the seven


def test_labels_stay_with_their_images() -> None:
    for epoch in epochs(stream(), 4):
        assert epoch.targets.tolist() == [number % 3 for number in which(epoch)]


def test_the_order_is_the_documented_function_of_seed_task_and_epoch() -> None:
    source = stream(examples_per_task=None, epochs_per_task=2, batch_size=7)
    take(source, 3)
    batch = examples(source.advance())
    assert which(batch) == torch.randperm(7, generator=torch_generator(0, "order", 1, 1)).tolist()


def test_all_examples_make_a_task_when_no_number_is_given() -> None:
    assert sorted(which(examples(stream(examples_per_task=None, batch_size=100).advance()))) == list(range(7))


def test_pixels_are_permuted_in_one_way_within_a_task_and_differently_between_tasks() -> None:
    source = stream(transformation="permuted_pixels", examples_per_task=None, epochs_per_task=1, batch_size=7)
    permutations = []
    for _ in range(3):
        flat = examples(source.advance()).inputs.flatten(1).to(torch.int64)
        permutation = flat % 6
        assert bool((permutation == permutation[0]).all())
        assert sorted(permutation[0].tolist()) == list(range(6))
        assert sorted((flat[:, 0] // 6).tolist()) == list(range(7))
        permutations.append(tuple(permutation[0].tolist()))
    assert len(set(permutations)) == 3
    assert tuple(range(6)) not in permutations  # the first task is permuted too


def test_random_labels_last_for_a_task() -> None:
    source = stream(dataset=numbers(40), transformation="random_labels", examples_per_task=None, batch_size=40)
    labels = []
    for _ in range(4):
        batch = examples(source.advance())
        labels.append([label for _, label in sorted(zip(which(batch), batch.targets.tolist(), strict=True))])
    assert labels[0] == labels[1]
    assert labels[2] == labels[3]
    assert labels[0] != labels[2]
    assert labels[0] != [number % 3 for number in range(40)]


def test_permuted_labels_rename_classes() -> None:
    source = stream(transformation="permuted_labels", examples_per_task=None, epochs_per_task=1, batch_size=7)
    names = []
    for _ in range(12):
        batch = examples(source.advance())
        renamed = dict(zip([number % 3 for number in which(batch)], batch.targets.tolist(), strict=True))
        assert [renamed[number % 3] for number in which(batch)] == batch.targets.tolist()
        assert sorted(renamed.values()) == [0, 1, 2]
        names.append(tuple(renamed[label] for label in range(3)))
    assert len(set(names)) > 2


def test_hidden_switches_are_not_told_but_change_the_data_and_are_logged() -> None:
    hidden, known = stream(announce_tasks=False), stream(announce_tasks=True)
    for concealed, announced in zip(take(hidden, 13), take(known, 13), strict=True):
        assert concealed.task == 0
        assert torch.equal(examples(concealed).inputs, examples(announced).inputs)
        assert concealed.stats == announced.stats
    assert (hidden.task, known.task) == (0, 2)


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("before", [0, 1, 3, 4, 6, 11])
def test_a_resumed_stream_goes_on_exactly(transformation: str, before: int) -> None:
    source = stream(transformation=transformation)
    take(source, before)
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    resumed = stream(transformation=transformation)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert (resumed.step, resumed.task) == (source.step, source.task)
    for expected, experience in zip(take(source, 10), take(resumed, 10), strict=True):
        assert torch.equal(examples(experience).inputs, examples(expected).inputs)
        assert torch.equal(examples(experience).targets, examples(expected).targets)
        assert (experience.task, experience.stats) == (expected.task, expected.stats)


def test_a_state_of_other_settings_is_refused() -> None:
    source = stream()
    take(source, 10)  # task 1, epoch 1, one minibatch of it
    assert source.state_dict() == {"step": 10, "task": 1, "epoch": 1, "position": 2}
    for changes in ({"batch_size": 1}, {"epochs_per_task": 3}, {"examples_per_task": 7}):
        with pytest.raises(ValueError, match=r"saved step 10 does not fit .* saved with other settings"):
            stream(**changes).load_state_dict(source.state_dict())


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_the_seed_decides_everything(transformation: str) -> None:
    first, again, other = (
        [examples(experience) for experience in take(stream(transformation=transformation, seed=seed), 9)] for seed in (3, 3, 4)
    )
    assert all(torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a.inputs, b.inputs) for a, b in zip(first, other, strict=True))


def test_nothing_is_drawn_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    take(stream(transformation="random_labels"), 8)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_a_stream_with_the_types_of_its_data() -> None:
    source: Stream = stream()
    assert (source.input_shape, source.input_dtype) == ((1, 2, 3), torch.uint8)

    def act(observations: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a data stream asks for no action")

    batch = examples(source.advance(act))
    assert (batch.inputs.dtype, batch.targets.dtype) == (torch.uint8, torch.int64)
    source.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"transformation": "rotated"},
            r"env\.transformation=rotated is unknown; choose from none, permuted_pixels",
        ),
        ({"examples_per_task": 8}, r"examples_per_task must be null or 1\.\.7, got 8"),
        ({"examples_per_task": 0}, r"examples_per_task must be null or 1\.\.7, got 0"),
        ({"epochs_per_task": 0}, "epochs_per_task must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stream(**changes)


# Length of tasks, places, and what is done to images on their way out


def made(
    schedule: Schedule,
    preparation: Preparation | None = None,
    count: int = 7,
    test: Dataset | None = None,
    mode: str = "continual",
) -> TaskStream:
    tasks = TaskStreamSettings(transformation="none", mode=mode)
    return TaskStream(TransformedTasks(numbers(count), tasks, 0, test), schedule, 0, preparation)


def places(source: TaskStream, count: int) -> list[tuple[int, int, bool, bool]]:
    return [experience.place[:4] for experience in take(source, count) if experience.place is not None]


def test_each_minibatch_says_where_in_its_task_it_stands() -> None:
    source = made(Schedule(epochs_per_task=2, batch_size=4))
    assert places(source, 5) == [
        (0, 2, False, False),
        (0, 2, True, False),
        (1, 2, False, False),
        (1, 2, True, True),
        (0, 2, False, False),
    ]
    assert not source.ends_epoch
    source.advance()
    assert source.ends_epoch
    assert not source.ends_task


def test_first_tasks_may_be_longer_or_shorter() -> None:
    source = made(Schedule(epochs_per_task=1, batch_size=7, first_epochs=(3, 2)))
    assert [experience.task for experience in take(source, 8)] == [0, 0, 0, 1, 1, 2, 3, 4]
    assert source.state_dict() == {"step": 8, "task": 4, "epoch": 0, "position": 7}
    made(Schedule(1, 7, first_epochs=(3, 2))).load_state_dict(source.state_dict())
    with pytest.raises(ValueError, match="saved with other settings"):
        made(Schedule(1, 7)).load_state_dict(source.state_dict())


def test_a_number_of_minibatches_ends_a_task_within_an_epoch() -> None:
    schedule = Schedule(epochs_per_task=99, batch_size=3, batches_per_task=5)  # 7 examples: 3 minibatches an epoch
    source = made(schedule)
    seen = take(source, 12)
    assert [experience.task for experience in seen] == [0] * 5 + [1] * 5 + [2] * 2
    assert [len(examples(experience).inputs) for experience in seen[:6]] == [3, 3, 1, 3, 3, 3]
    assert places(made(schedule), 5) == [
        (0, 2, False, False),
        (0, 2, False, False),
        (0, 2, True, False),
        (1, 2, False, False),
        (1, 2, True, True),
    ]
    for before in range(12):
        other, resumed = made(schedule), made(schedule)
        take(other, before)
        resumed.load_state_dict(other.state_dict())
        assert torch.equal(examples(resumed.advance()).inputs, examples(seen[before] if before < 12 else seen[0]).inputs)
    assert source.minibatches(0) == 5


def test_a_growing_task_of_so_many_minibatches_shows_its_few_examples_more_often() -> None:
    source = made(Schedule(batch_size=3, batches_per_task=6), count=9, mode="growing")
    tasks = [[which(examples(experience)) for experience in take(source, 6)] for _ in range(3)]
    assert [sum(map(len, task)) for task in tasks] == [18, 18, 18]
    assert [len({number for batch in task for number in batch}) for task in tasks] == [3, 6, 9]


PREPARATION = Preparation(Augmentation(0.5, 1, 0.0), [0.5], [0.25])


def test_augmentation_is_a_function_of_the_place_and_resumes_in_the_middle_of_an_epoch() -> None:
    schedule = Schedule(epochs_per_task=2, batch_size=2)
    seen = take(made(schedule, PREPARATION), 12)
    plain = take(made(schedule), 12)
    assert seen[0].batch[0].dtype == torch.float32
    assert any(
        not torch.equal(examples(a).inputs, PREPARATION.standardise(examples(b).inputs)) for a, b in zip(seen, plain, strict=True)
    )
    assert all(torch.equal(examples(a).targets, examples(b).targets) for a, b in zip(seen, plain, strict=True))
    for before in (1, 3, 6, 9):
        other, resumed = made(schedule, PREPARATION), made(schedule, PREPARATION)
        take(other, before)
        resumed.load_state_dict(other.state_dict())
        for expected, experience in zip(seen[before:], take(resumed, 12 - before), strict=True):
            assert torch.equal(examples(experience).inputs, examples(expected).inputs)


def test_augmented_images_are_mirrored_crops_of_their_own() -> None:
    source = made(Schedule(batch_size=7), Preparation(Augmentation(0.5, 1, 0.0)))
    for experience in take(source, 3):
        for image in examples(experience).inputs:
            values = image.flatten().to(torch.int64)
            assert bool((values // 6 == values[0] // 6).all())  # all from the one image


def test_sets_come_without_augmentation_unless_requested() -> None:
    test = Dataset("test", numbers(4).inputs + 100, numbers(4).targets, 3)
    source = made(Schedule(batch_size=4), PREPARATION, test=test)
    assert list(source.sets()) == ["train", "test"]
    batches = list(source.in_batches(source.sets()["test"], 3))
    assert [len(batch.inputs) for batch in batches] == [3, 1]
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), PREPARATION.standardise(test.inputs))
    drawn = list(source.in_batches(source.sets()["test"], 4, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn[0].inputs, PREPARATION.standardise(test.inputs))
    assert list(source.sets(3)) == ["train", "test"]


def test_another_stream_begins_a_task_and_leaves_this_one_where_it_is() -> None:
    source = stream()
    seen = take(source, 20)
    other = source.beginning(1)
    assert (other.step, other.true_task) == (0, 1)
    for expected, experience in zip(seen[6:12], take(other, 6), strict=True):
        assert torch.equal(examples(experience).inputs, examples(expected).inputs)
    assert (source.step, source.true_task, other.step) == (20, 3, 6)


def test_lengths_are_checked() -> None:
    with pytest.raises(ValueError, match="batches_per_task must be null or at least 1, got 0"):
        Schedule(batches_per_task=0)
    with pytest.raises(ValueError, match=r"first_epochs must be numbers of at least 1, got \[1, 0\]"):
        Schedule(first_epochs=(1, 0))


def test_a_task_that_is_looked_at_ahead_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = TransformedTasks.task
    monkeypatch.setattr(TransformedTasks, "task", lambda self, number: (made.append(number), original(self, number))[1])
    source = stream()
    ahead = source.sets(1)["train"]
    assert source.active(1) is None
    assert made == [0, 1]
    take(source, 7)  # six minibatches of the first task
    assert source.true_task == 1
    assert source.sets()["train"] is ahead
    assert made == [0, 1]
    source.sets(0), source.sets(3)
    again = source.beginning(1)
    assert made == [0, 1, 0, 3]
    assert again.sets()["train"] is ahead
    take(source, 6)
    assert made == [0, 1, 0, 3, 2]


def test_the_smallest_minibatch_by_hand() -> None:
    assert stream().smallest_minibatch(0) == 1  # 5 = 2 + 2 + 1
    assert stream(batch_size=5).smallest_minibatch(0) == 5
    cut = TransformedTasks(numbers(), TaskStreamSettings(transformation="none", examples_per_task=5), 0)
    assert TaskStream(cut, Schedule(batch_size=2, batches_per_task=2), 0).smallest_minibatch(0) == 2  # the last one is not shown
    assert TaskStream(cut, Schedule(batch_size=2, batches_per_task=4), 0).smallest_minibatch(0) == 1


def test_minibatches_of_a_task_are_counted_through_its_epochs_and_after_a_resume() -> None:
    schedule = Schedule(epochs_per_task=2, batch_size=3)  # 7 examples: 3 minibatches an epoch
    source, counts = made(schedule), []
    for number in range(8):
        if number == 4:
            other = made(schedule)
            other.load_state_dict(source.state_dict())
            source = other
        place = source.advance().place
        assert place is not None
        counts.append((place.minibatch, place.minibatches))
    assert counts == [(0, 6), (1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (0, 6), (1, 6)]
