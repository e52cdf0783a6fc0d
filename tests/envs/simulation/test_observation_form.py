"""How observations are shown: shared buffers, layouts, dtypes, numbers."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.gym_stream import GymSettings
from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.experience import Transitions
from plasticity.envs.simulation.failure import EnvironmentFailure
from plasticity.envs.simulation.normalisation import NormaliseObservations, NormaliseRewards
from plasticity.envs.simulation.observation_form import ObservationForm
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.networks.factory import build_network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.networks.torsos.transformer import ViTSpec

ALL = np.zeros(1, np.float32)


class Shared(gymnasium.Env[Any, Any]):
    """Counts its steps in one array, or in one that all copies share, and terminates at ``end``."""

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, end: int = 0, array: Any = None) -> None:
        self.end, self.count = end, 0
        self.array = np.zeros(1, np.float32) if array is None else array

    def _shown(self) -> Any:
        self.array[0] = self.count
        return self.array

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self._shown(), 1.0, self.count == self.end, False, {}


def truncating(steps: int) -> Any:
    return TimeLimit(Shared(), steps)


def batches(vector: Any, steps: int) -> list[Transitions]:
    stream = EnvironmentStream(vector, 0)
    seen = [stream.advance(lambda o: torch.zeros(len(o), dtype=torch.int64)).batch for _ in range(steps)]
    assert all(isinstance(batch, Transitions) for batch in seen)
    return seen  # type: ignore[return-value]


def test_a_shared_buffer_keeps_its_final_observation_in_either_kind_of_end() -> None:
    for maker, ends in ((partial(Shared, 5), (True, False)), (partial(truncating, 5), (False, True))):
        *_, last, first = batches(SyncVector([maker, partial(Shared, 9)]), 6)
        assert (bool(last.terminated[0]), bool(last.truncated[0])) == ends
        assert last.next_observations.flatten().tolist() == [5, 5]
        assert first.observations.flatten().tolist() == [0, 5]


def test_copies_may_write_into_the_same_array() -> None:
    *_, last = batches(SyncVector([partial(Shared, 2, ALL), partial(Shared, 3, ALL)]), 3)
    assert last.observations.flatten().tolist() == [0, 2]
    assert last.next_observations.flatten().tolist() == [1, 3]


def test_wrappers_keep_a_shared_buffers_final_observation() -> None:
    plain = batches(NormaliseRewards(SyncVector([partial(Shared, 5)]), 0.9), 5)
    assert plain[-1].next_observations.item() == 5
    normalised = NormaliseObservations(SyncVector([partial(Shared, 5)]))
    last = batches(normalised, 5)[-1]  # the statistics are of 0 1 2 3 4 0
    numbers = np.array([0, 1, 2, 3, 4, 0])
    assert last.next_observations.item() == pytest.approx((5 - numbers.mean()) / numbers.std(), rel=1e-6)


def test_a_change_of_task_keeps_a_shared_buffers_final_observation() -> None:
    make = partial(SyncVector, [Shared])
    assert batches(TaskSequence([make, make], 3, 0, True), 3)[-1].next_observations.item() == 3


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float16", "float64"])
def test_types_that_few_operations_know_become_single_precision(dtype: str) -> None:
    form = ObservationForm(spaces.Box(0, 60000, (2,), np.dtype(dtype).type))
    row = np.zeros(2, np.float32)
    form.put(row, np.array([1, 50000], dtype))
    assert (form.space.dtype, row.tolist()) == (np.float32, [1.0, float(np.array(50000, dtype))])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float32"])
def test_other_types_stay(dtype: str) -> None:
    space = spaces.Box(0, 1, (2,), np.dtype(dtype).type)
    assert ObservationForm(space).space is space


@pytest.mark.parametrize("given", [np.float32(2.5), 2.5, np.array(2.5), torch.tensor(2.5)])
def test_a_number_is_shown_as_a_vector_of_one(given: Any) -> None:
    form = ObservationForm(spaces.Box(-3, 3, (), np.float32))
    row = np.zeros(form.space.shape, np.float32)
    form.put(row, given)
    assert row.tolist() == [2.5]


def test_whole_numbers_of_another_type_must_fit() -> None:
    form = ObservationForm(spaces.Box(0, 255, (2,), np.uint8))
    row = np.zeros(2, np.uint8)
    form.put(row, np.array([0.0, 255.0]))
    assert row.tolist() == [0, 255]
    for wrong in (np.array([0, 256]), np.array([0.5, 1.0]), np.array([-1, 0]), np.array([np.nan, 0.0])):
        with pytest.raises(EnvironmentFailure, match=r"has dtype (int64|float64) and values that uint8, .*, cannot hold"):
            form.put(row, wrong)


@pytest.mark.parametrize(
    ("shape", "shown", "said"),
    [
        ((48, 40, 3), (3, 48, 40), "are taken as (height, width, channels)"),
        ((84, 84, 1), (1, 84, 84), "are taken as (height, width, channels)"),
        ((84, 84, 12), (12, 84, 84), "are taken as (height, width, channels)"),
        ((10, 10, 6), (6, 10, 10), "are taken as (height, width, channels)"),
        ((4, 84, 84), (4, 84, 84), ""),
        ((1, 10, 5), (1, 10, 5), ""),
        ((3, 48, 40), (3, 48, 40), ""),
        ((32, 8, 8), (32, 8, 8), ""),
        ((16, 20, 10), (16, 20, 10), "set env.image_layout=channels_last"),
        ((4, 40, 3), (4, 40, 3), "set env.image_layout=channels_last"),
    ],
)
def test_layouts_are_told_by_the_shape(shape: tuple[int, ...], shown: tuple[int, ...], said: str) -> None:
    form = ObservationForm(spaces.Box(0, 255, shape, np.uint8))
    assert form.space.shape == shown
    assert said in form.note
    assert bool(said) == bool(form.note)


def test_layouts_can_be_asked_for() -> None:
    space = spaces.Box(0, 255, (4, 6, 3), np.uint8)
    last, first = (ObservationForm(space, layout) for layout in ("channels_last", "channels_first"))
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    row = np.zeros((3, 4, 6), np.uint8)
    last.put(row, image)
    assert (first.space.shape, last.space.shape, first.note, last.note) == ((4, 6, 3), (3, 4, 6), "", "")
    assert row[1, 2, 5] == image[2, 5, 1]
    with pytest.raises(ValueError, match="image_layout=hwc is unknown; choose from auto, channels_first, channels_last"):
        ObservationForm(space, "hwc")
    with pytest.raises(ValueError, match="image_layout=channels_last needs images of three axes, got observations of shape"):
        ObservationForm(spaces.Box(0, 1, (3,)), "channels_last")


class Images(gymnasium.Env[Any, Any]):
    observation_space = spaces.Box(0, 255, (40, 36, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, **_: Any) -> Any:
        return self.observation_space.low, {}

    def step(self, action: Any) -> Any:
        return self.observation_space.high, 0.0, False, False, {}


@pytest.mark.parametrize(
    "spec",
    [ResNetSpec(channels=[8, 8]), ConvSpec(widths=[8], channels=[4]), ViTSpec(widths=[8]), MLPSpec(widths=[8])],
    ids=lambda spec: spec.torso,
)
def test_networks_read_images_of_either_layout(spec: NetworkSpec) -> None:
    gymnasium.register("Test/Images-v0", Images)
    try:
        stream, _ = GymSettings(id="Test/Images-v0").build(0, torch.device("cpu"))
    finally:
        gymnasium.registry.pop("Test/Images-v0")
    assert isinstance(stream, EnvironmentStream)
    assert len(stream.notes) == 1
    network = build_network(spec, stream.input_shape, stream.input_dtype, HeadSpec("q", 2), 0)
    batch = stream.advance(lambda o: torch.zeros(1, dtype=torch.int64)).batch
    assert isinstance(batch, Transitions)
    assert network(batch.next_observations).shape == (1, 2)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Box(0, 1, (2,)), "b": spaces.Discrete(3)}),
        spaces.Tuple([spaces.Box(0, 1, (2,))]),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Text(5),
        spaces.Graph(spaces.Box(0, 1, (2,)), None),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Discrete(3),
    ],
    ids=lambda space: type(space).__name__,
)
def test_other_spaces_get_one_line(space: Any) -> None:
    class Other(Images):
        observation_space = space

    with pytest.raises(ValueError, match=f"observation space must be a Box, got {type(space).__name__}") as error:
        SyncVector([Other])
    assert "\n" not in str(error.value)


def test_empty_and_unequal_spaces_get_one_line() -> None:
    class Empty(Images):
        observation_space = spaces.Box(0, 1, (0,))

    with pytest.raises(ValueError, match="observation space must hold at least one number, got Box"):
        SyncVector([Empty])
    with pytest.raises(ValueError, match="all copies must have the same spaces, got"):
        SyncVector([Images, Shared])
