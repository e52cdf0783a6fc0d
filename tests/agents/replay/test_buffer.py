from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from plasticity.agents.replay.buffer import Replay, ReplayBatch
from plasticity.agents.replay.memory import TransitionMemory
from plasticity.agents.replay.priorities import Priorities, PrioritisedReplay
from plasticity.agents.replay.segments import SEGMENTS, delete_unused
from plasticity.envs.experience import Transitions

CPU = torch.device("cpu")
GAMMA = 0.9


class Kind(NamedTuple):
    """What a stream looks like: N environments, frames in a stack (1 for vectors), dtype, and chances of ends in a step."""

    environments: int
    stack: int
    dtype: torch.dtype
    termination: float = 0.15
    truncation: float = 0.15
    jump: float = 0.0


def frame(kind: Kind, generator: torch.Generator) -> Tensor:
    shape = (2, 3) if kind.stack > 1 else (5,)
    if kind.dtype == torch.uint8:
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator).to(kind.dtype)


def first_observation(kind: Kind, generator: torch.Generator) -> Tensor:
    """A vector; or a stack of zeros, of copies, or of other frames, behind a first frame."""
    newest = frame(kind, generator)
    if kind.stack == 1:
        return newest
    choice = int(torch.randint(3, (), generator=generator))
    older = [[torch.zeros_like(newest), newest, frame(kind, generator)][choice] for _ in range(kind.stack - 1)]
    return torch.stack([*older, newest])


def following(kind: Kind, observation: Tensor, generator: torch.Generator) -> Tensor:
    newest = frame(kind, generator)
    return newest if kind.stack == 1 else torch.cat([observation[1:], newest.unsqueeze(0)])


def stream(kind: Kind, steps: int, seed: int = 0) -> Iterator[Transitions]:
    """Yields ``steps`` steps; with ``jump`` an environment is reset at times without telling, as when a run resumes."""
    generator = torch.Generator().manual_seed(seed)
    observations = torch.stack([first_observation(kind, generator) for _ in range(kind.environments)])
    for step in range(steps):
        terminated, chance, jump = torch.rand((3, kind.environments), generator=generator).unbind()
        ended, cut = terminated < kind.termination, chance < kind.truncation
        next_observations = torch.stack([following(kind, row, generator) for row in observations])
        numbers = torch.arange(kind.environments) + step * kind.environments
        rewards = torch.randn(kind.environments, generator=generator)
        yield Transitions(observations, numbers, rewards, ended, cut & ~ended, next_observations)
        again = ended | cut | (jump < kind.jump)
        observations = next_observations.clone()
        for row in range(kind.environments):
            if again[row]:
                observations[row] = first_observation(kind, generator)


class NaiveReplay:
    """Keeps the latest transitions whole, numbered by their actions, and adds up returns one by one."""

    def __init__(self, capacity: int, environments: int) -> None:
        self.capacity, self.environments = capacity, environments
        self.rows: list[Transitions] = []

    def add(self, transitions: Transitions) -> None:
        self.rows += [Transitions(*(field[i].clone() for field in transitions)) for i in range(self.environments)]

    @property
    def numbers(self) -> list[int]:
        """Numbers of the transitions held, in the order of memory."""
        held = range(max(0, len(self.rows) - self.capacity), len(self.rows))
        return sorted(held, key=lambda number: number % self.capacity)

    def steps(self, number: int, n: int) -> list[Transitions]:
        """The transitions of one return: up to n, within the episode, as far as there are any."""
        steps = [self.rows[number]]
        while len(steps) < n and not (steps[-1].terminated or steps[-1].truncated):
            number += self.environments
            if number >= len(self.rows) or not torch.equal(self.rows[number].observations, steps[-1].next_observations):
                break
            steps.append(self.rows[number])
        return steps


def filled(kind: Kind, capacity: int, steps: int, seed: int = 0, **settings: Any) -> tuple[Replay, NaiveReplay]:
    replay = Replay(capacity, CPU, discount=GAMMA, frame_stack=kind.stack, **settings)
    naive = NaiveReplay(capacity, kind.environments)
    for transitions in stream(kind, steps, seed):
        replay.add(transitions)
        naive.add(transitions)
    return replay, naive


def everything(replay: Replay) -> ReplayBatch:
    """All rows in the order of memory."""
    return replay.batch(torch.arange(replay.size))


def bits(values: Tensor) -> bytes:
    return values.contiguous().numpy().tobytes()


def require_equal(replay: Replay, naive: NaiveReplay, n: int = 1) -> None:
    batch, numbers = everything(replay), naive.numbers
    assert batch.actions.tolist() == numbers
    for row, number in enumerate(numbers):
        steps = naive.steps(number, n)
        assert bits(batch.inputs[row]) == bits(steps[0].observations)
        assert bits(batch.next_inputs[row]) == bits(steps[-1].next_observations)
        assert bool(batch.terminated[row]) == bool(steps[-1].terminated)
        expected = sum(float(step.rewards) * GAMMA**i for i, step in enumerate(steps))
        assert float(batch.rewards[row]) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert float(batch.discounts[row]) == pytest.approx(GAMMA ** len(steps), rel=1e-6)


KINDS = [
    Kind(environments, stack, dtype)
    for environments in (1, 3, 4)
    for stack, dtype in ((1, torch.float32), (1, torch.uint8), (4, torch.uint8), (4, torch.float32), (2, torch.uint8))
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("capacity", [5, 12, 31])
def test_every_row_equals_a_replay_that_stores_all(kind: Kind, capacity: int) -> None:
    replay = Replay(capacity, CPU, discount=GAMMA, frame_stack=kind.stack)
    naive = NaiveReplay(capacity, kind.environments)
    for step, transitions in enumerate(stream(kind, 40)):
        replay.add(transitions)
        naive.add(transitions)
        if step < 12 or step % 7 == 0:
            require_equal(replay, naive)
    assert torch.equal(everything(replay).rewards, torch.stack([naive.rows[number].rewards for number in naive.numbers]))


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS[::2], ids=str)
@pytest.mark.parametrize("capacity", [7, 25])
def test_returns_of_several_steps_equal_sums_one_by_one(kind: Kind, capacity: int, n: int) -> None:
    replay, naive = filled(kind, capacity, 3, n_step=n)
    require_equal(replay, naive, n)
    replay, naive = filled(kind, capacity, 23, n_step=n)
    require_equal(replay, naive, n)


@pytest.mark.parametrize("stack", [1, 4])
def test_a_stream_that_continues_elsewhere_without_an_end(stack: int) -> None:
    # As when a run resumes with new episodes: what was to follow is kept, and no return spans the two.
    kind = Kind(3, stack, torch.float32, jump=0.2)
    for steps in (4, 37):
        replay, naive = filled(kind, 30, steps, n_step=3)
        require_equal(replay, naive, 3)


@pytest.mark.parametrize("stack", [1, 4])
def test_episodes_of_one_step_need_every_final_observation(stack: int) -> None:
    replay, naive = filled(Kind(2, stack, torch.uint8, termination=1.0), 40, 90, n_step=3)
    require_equal(replay, naive, 3)
    assert bool(everything(replay).terminated.all())


def test_zero_of_either_sign_and_nan_come_back_as_they_were() -> None:
    replay = Replay(8, CPU)
    plus, minus, nan = (torch.full((1, 2), value) for value in (0.0, -0.0, float("nan")))
    no, action, reward = torch.tensor([False]), torch.tensor([0]), torch.tensor([1.0])
    for before, after in ((plus, minus), (plus, nan), (nan, minus)):
        replay.add(Transitions(before, action, reward, no, no, after))
    batch = everything(replay)
    assert [bits(row) for row in batch.inputs] == [bits(x) for x in (plus, plus, nan)]
    assert [bits(row) for row in batch.next_inputs] == [bits(x) for x in (minus, nan, minus)]


def hand_made(rewards: list[float], ends: dict[int, str], capacity: int = 50, n: int = 3) -> Replay:
    """One environment whose observation is its step's number, plus 0.5 at the end of an episode."""
    replay = Replay(capacity, CPU, n_step=n, discount=0.5)
    for step, reward in enumerate(rewards):
        end = ends.get(step, "")
        after = step + (0.5 if end else 1.0)
        values = (step, reward, end == "terminated", end == "truncated", after)
        numbers, reward_1, terminated, truncated, last = (torch.tensor([value]) for value in values)
        replay.add(Transitions(numbers.float(), numbers, reward_1, terminated, truncated, last.float()))
    return replay


def rows(replay: Replay) -> list[tuple[float, float, bool, float]]:
    batch = everything(replay)
    values = (batch.rewards, batch.discounts, batch.terminated, batch.next_inputs)
    return list(zip(*(value.tolist() for value in values), strict=True))


def test_three_steps_by_hand() -> None:
    # gamma 1/2, three steps, rewards 1 to 6; the episode ends in a terminal state after the fourth.
    replay = hand_made([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], {3: "terminated"})
    assert rows(replay) == [
        (1 + 1.0 + 0.75, 0.125, False, 3.0),
        (2 + 1.5 + 1.0, 0.125, True, 3.5),
        (3 + 2.0, 0.25, True, 3.5),
        (4.0, 0.5, True, 3.5),
        (5 + 3.0, 0.25, False, 6.0),  # the newest step ends it like a cut
        (6.0, 0.5, False, 6.0),
    ]


def test_a_cut_episode_is_bootstrapped_from_its_final_observation() -> None:
    replay = hand_made([1.0, 2.0, 3.0, 4.0], {1: "truncated"})
    assert rows(replay) == [
        (1 + 1.0, 0.25, False, 1.5),
        (2.0, 0.5, False, 1.5),
        (3 + 2.0, 0.25, False, 4.0),
        (4.0, 0.5, False, 4.0),
    ]


def test_episodes_shorter_than_a_return() -> None:
    replay = hand_made([1.0, 2.0, 4.0], {0: "terminated", 1: "truncated", 2: "terminated"}, n=5)
    assert rows(replay) == [(1.0, 0.5, True, 0.5), (2.0, 0.5, False, 1.5), (4.0, 0.5, True, 2.5)]


def test_a_return_does_not_run_from_the_newest_row_into_the_oldest() -> None:
    # Capacity 4: steps 4 5 2 3 in memory; behind step 5 lies step 2.
    replay = hand_made([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], {}, capacity=4)
    assert rows(replay) == [
        (5 + 3.0, 0.25, False, 6.0),
        (6.0, 0.5, False, 6.0),
        (3 + 2.0 + 1.25, 0.125, False, 5.0),
        (4 + 2.5 + 1.5, 0.125, False, 6.0),
    ]


def test_one_step_is_the_plain_replay() -> None:
    one, several = (filled(Kind(3, 1, torch.float32), 20, 15, n_step=n)[0] for n in (1, 5))
    batch = everything(one)
    assert torch.equal(batch.discounts, torch.full((20,), GAMMA))
    ends = several._columns.ends if several._columns else None  # the last step of an episode is one step of either kind
    assert ends is not None
    assert bool(ends.any())
    assert torch.equal(everything(several).rewards[ends], batch.rewards[ends])


def test_fewer_environments_than_at_first_end_all_episodes() -> None:
    replay = Replay(40, CPU, n_step=3, discount=GAMMA)
    for transitions in (*stream(Kind(4, 1, torch.float32, 0, 0), 3, 1), *stream(Kind(2, 1, torch.float32, 0, 0), 3, 2)):
        replay.add(transitions)
    batch = everything(replay)
    expected = [1] * 12 + [3, 3, 2, 2, 1, 1]
    assert torch.allclose(batch.discounts, GAMMA ** torch.tensor(expected))
    with pytest.raises(ValueError, match="the number of environments=5 must be between 1 and 4"):
        replay.add(next(stream(Kind(5, 1, torch.float32), 1)))


def numbered(first: int, count: int, dtype: torch.dtype = torch.float32) -> Transitions:
    """Transitions that follow no other and whose fields all contain their number."""
    numbers = torch.arange(first, first + count)
    pixels = (numbers % 200).to(dtype).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    return Transitions(pixels, numbers, numbers.float(), numbers % 2 == 0, numbers % 3 == 0, pixels + 1)


def held(replay: Replay) -> list[int]:
    return everything(replay).actions.tolist() if replay.size else []


def test_ring_by_hand() -> None:
    # Capacity 5, three at a time: 0 1 2 | 3 4 then 5 over 0 | 6 7 8 over 1 2 3.
    replay = Replay(5, CPU)
    replay.add(numbered(0, 3))
    assert (replay.size, held(replay)) == (3, [0, 1, 2])
    replay.add(numbered(3, 3))
    assert (replay.size, held(replay)) == (5, [5, 1, 2, 3, 4])
    replay.add(numbered(6, 3))
    assert (replay.size, held(replay)) == (5, [5, 6, 7, 8, 4])
    replay.add(numbered(9, 3))
    assert (replay.size, held(replay), replay.total) == (5, [10, 11, 7, 8, 9], 12)


def test_more_environments_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"agent\.buffer_transitions=2 must be at least 3"):
        Replay(2, CPU).add(numbered(0, 3))


def test_fields_of_a_sample_belong_together() -> None:
    replay = Replay(13, CPU)
    for first in range(0, 50, 5):
        replay.add(numbered(first, 5))
    batch = replay.sample(300, torch.Generator().manual_seed(0))
    numbers = batch.actions
    assert torch.equal(batch.inputs, (numbers % 200).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2))
    assert torch.equal(batch.next_inputs, batch.inputs + 1)
    assert torch.equal(batch.rewards, numbers.float())
    assert torch.equal(batch.terminated, numbers % 2 == 0)
    assert set(numbers.tolist()) == set(range(37, 50))


def test_sampling_is_uniform() -> None:
    # Chi-square over 20 cells has 19 degrees of freedom: 43.8 is exceeded with probability 0.001.
    replay = Replay(20, CPU)
    for first in range(0, 33, 3):
        replay.add(numbered(first, 3))
    draws = replay.sample(40_000, torch.Generator().manual_seed(1)).actions
    counts = torch.bincount(draws)[13:33]
    assert int(counts.sum()) == 40_000
    assert float(((counts - 2000.0) ** 2 / 2000.0).sum()) < 43.8


def test_a_part_filled_ring_never_gives_an_empty_row() -> None:
    replay = Replay(1000, CPU)
    replay.add(numbered(5, 3))
    assert set(replay.sample(200, torch.Generator().manual_seed(0)).actions.tolist()) == {5, 6, 7}


def test_sampling_depends_on_the_generator_alone() -> None:
    replay = Replay(20, CPU)
    replay.add(numbered(0, 20))
    one, two = (replay.sample(50, torch.Generator().manual_seed(seed)).actions for seed in (3, 3))
    assert torch.equal(one, two)
    assert not torch.equal(one, replay.sample(50, torch.Generator().manual_seed(4)).actions)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    replay = Replay(5, CPU)
    replay.add(numbered(0, 2, dtype))
    batch = replay.sample(3, torch.Generator())
    assert [value.dtype for value in batch] == [
        dtype,
        torch.int64,
        torch.float32,
        torch.bool,
        dtype,
        torch.float32,
        torch.int64,
        torch.float32,
    ]


def test_continuous_actions_keep_their_shape() -> None:
    replay = Replay(4, CPU)
    actions = torch.tensor([[0.5, -0.5], [0.25, 1.0]])
    replay.add(numbered(0, 2)._replace(actions=actions))
    assert torch.equal(everything(replay).actions, actions)


def test_what_was_added_may_be_written_over() -> None:
    kind, naive = Kind(2, 4, torch.uint8), NaiveReplay(30, 2)
    replay, kept = Replay(30, CPU, discount=GAMMA, frame_stack=4), list(stream(kind, 20))
    memory = Transitions(*(field.clone() for field in kept[0]))
    for transitions in kept:
        for field, new in zip(memory, transitions, strict=True):
            field.copy_(new)
        replay.add(memory)
        naive.add(transitions)
    require_equal(replay, naive)


def test_a_sample_may_be_written_over() -> None:
    replay, naive = filled(Kind(2, 4, torch.uint8), 30, 20)
    for value in everything(replay):
        value.zero_()
    require_equal(replay, naive)


def test_a_batch_made_by_hand_has_no_usable_discounts() -> None:
    one = torch.ones(2)
    assert bool((one * ReplayBatch(one, one, one, one, one).discounts).isnan().all())


def test_an_empty_ring_refuses_to_sample() -> None:
    with pytest.raises(ValueError, match="empty"):
        Replay(3, CPU).sample(1, torch.Generator())
    with pytest.raises(ValueError, match="empty"):
        Replay(3, CPU).batch(torch.tensor([0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 0}, r"agent\.buffer_transitions=0 must be at least 1"),
        ({"n_step": 0}, r"agent\.n_step=0 must be at least 1"),
        ({"discount": 1.5}, r"agent\.discount=1.5 must be between 0 and 1"),
        ({"frame_stack": 0}, r"agent\.frame_stack=0 must be at least 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Replay(**{"capacity": 3, "device": CPU, **settings})


STATES = [Kind(3, 1, torch.float32), Kind(2, 4, torch.uint8), Kind(1, 4, torch.float32)]


@pytest.mark.parametrize("kind", STATES, ids=str)
@pytest.mark.parametrize("before", [0, 1, 2, 9, 40])
def test_state_round_trip(kind: Kind, before: int, through_disk: Callable[[Any], Any], same: Callable[[Any, Any], bool]) -> None:
    steps = list(stream(kind, before + 20))
    replay, naive = Replay(25, CPU, 3, GAMMA, kind.stack), NaiveReplay(25, kind.environments)
    for transitions in steps[:before]:
        replay.add(transitions)
        naive.add(transitions)
    restored = Replay(25, CPU, 3, GAMMA, kind.stack)
    for transitions in stream(kind, 5, seed=9):
        restored.add(transitions)  # forgotten by loading
    state = through_disk(replay.state_dict())
    restored.load_state_dict(state)
    assert same(restored.state_dict(), state)
    for transitions in steps[before:]:
        naive.add(transitions)
        for one in (replay, restored):
            one.add(transitions)
        require_equal(restored, naive, 3)
    batches = [one.sample(100, torch.Generator().manual_seed(2)) for one in (replay, restored)]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(*batches, strict=True))


def test_a_nearly_empty_ring_makes_a_small_checkpoint() -> None:
    # 100,000 rows of 2 x 4 floats would be 3.2 MB for the inputs alone.
    replay, file = Replay(100_000, CPU), BytesIO()
    replay.add(numbered(0, 10))
    torch.save(replay.state_dict(), file)
    assert file.tell() < 20_000


def test_a_state_of_another_replay_is_refused() -> None:
    replay = filled(Kind(2, 4, torch.uint8), 20, 5)[0]
    with pytest.raises(ValueError, match="the saved replay has capacity 20, this one 21"):
        Replay(21, CPU, frame_stack=4).load_state_dict(replay.state_dict())
    with pytest.raises(ValueError, match="the saved replay has frame_stack 4, this one 2"):
        Replay(20, CPU, frame_stack=2).load_state_dict(replay.state_dict())


def test_observations_mapped_to_a_file_are_the_same(tmp_path: Path) -> None:
    kind = Kind(3, 4, torch.uint8)
    replay, naive = filled(kind, 50, 60, n_step=2, folder=tmp_path / "frames")
    require_equal(replay, naive, 2)
    assert list((tmp_path / "frames").iterdir()) == []  # without names, so that a kill leaves nothing behind


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plasticity.agents.replay.buffer.rows_per_segment", lambda row_bytes: 8)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("kind", STATES, ids=str)
@pytest.mark.parametrize("capacity", [11, 40])
@pytest.mark.parametrize("every", [1, 4, 20])
def test_saving_piece_by_piece(kind: Kind, capacity: int, every: int, tmp_path: Path, through_disk: Callable[[Any], Any]) -> None:
    replay, naive = Replay(capacity, CPU, 3, GAMMA, kind.stack), NaiveReplay(capacity, kind.environments)
    for step, transitions in enumerate(stream(kind, 42)):
        replay.add(transitions)
        naive.add(transitions)
        if (step + 1) % every == 0:
            state = through_disk(replay.state_dict(tmp_path))
            restored = Replay(capacity, CPU, 3, GAMMA, kind.stack)
            restored.load_state_dict(state, tmp_path)
            require_equal(restored, naive, 3)
            delete_unused(tmp_path, [state])
            if step % 2:
                replay = restored  # continues as a run that was resumed


@pytest.mark.usefixtures("small_segments")
def test_full_files_are_written_once_and_older_states_stay_readable(tmp_path: Path) -> None:
    kind = Kind(2, 4, torch.uint8)
    replay, naive = Replay(400, CPU, 3, GAMMA, 4), NaiveReplay(400, 2)
    states, written = [], []
    for step, transitions in enumerate(stream(kind, 60)):
        replay.add(transitions)
        naive.add(transitions)
        if step % 10 == 9:
            states.append(replay.state_dict(tmp_path))
            written.append({path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()})
            restored = Replay(400, CPU, 3, GAMMA, 4)
    assert all(later[name] == time for earlier, later in pairwise(written) for name, time in earlier.items())
    for number, state in enumerate(states):
        restored.load_state_dict(state, tmp_path)
        before = NaiveReplay(400, 2)
        before.rows = naive.rows[: 20 * (number + 1)]
        require_equal(restored, before, 3)
    delete_unused(tmp_path, states[-1:])
    assert {path.name for path in tmp_path.iterdir()} == {entry[0] for entry in states[-1][SEGMENTS]}
    with pytest.raises(ValueError, match="cannot be read"):
        restored.load_state_dict(states[0], tmp_path)


@pytest.mark.usefixtures("small_segments")
def test_a_kill_while_saving_leaves_the_last_state_whole(tmp_path: Path) -> None:
    kind = Kind(2, 4, torch.uint8)
    steps = list(stream(kind, 60))
    replay, naive = Replay(70, CPU, 3, GAMMA, 4), NaiveReplay(70, 2)
    for transitions in steps[:30]:
        replay.add(transitions)
        naive.add(transitions)
    state, names = replay.state_dict(tmp_path), {path.name for path in tmp_path.iterdir()}
    for transitions in steps[30:40]:
        replay.add(transitions)
    replay.state_dict(tmp_path)  # its checkpoint was never written
    for path in tmp_path.iterdir():
        if path.name not in names:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "rows_000000000064_000000000072.pt.tmp").write_bytes(b"half")
    resumed = Replay(70, CPU, 3, GAMMA, 4)
    resumed.load_state_dict(state, tmp_path)
    require_equal(resumed, naive, 3)
    for transitions in stream(kind, 20, seed=5):  # other episodes than before the kill: files of the same names
        later = transitions._replace(actions=transitions.actions + 60)
        resumed.add(later)
        naive.add(later)
    again = Replay(70, CPU, 3, GAMMA, 4)
    again.load_state_dict(resumed.state_dict(tmp_path), tmp_path)
    require_equal(again, naive, 3)


@pytest.mark.usefixtures("small_segments")
def test_rows_written_again_do_not_harm_an_older_state(tmp_path: Path) -> None:
    # A replay that knows no files writes all it holds, part of which it has overwritten since.
    steps = list(stream(Kind(2, 4, torch.uint8), 30))
    replay, naive = Replay(40, CPU, 3, GAMMA, 4), NaiveReplay(40, 2)
    for transitions in steps[:20]:
        replay.add(transitions)
        naive.add(transitions)
    state = replay.state_dict(tmp_path)
    other = Replay(40, CPU, 3, GAMMA, 4)
    other.load_state_dict(replay.state_dict())
    for transitions in steps[20:22]:
        other.add(transitions)
    other.state_dict(tmp_path)
    restored = Replay(40, CPU, 3, GAMMA, 4)
    restored.load_state_dict(state, tmp_path)
    require_equal(restored, naive, 3)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("damage", ["cut", "changed", "deleted"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    replay, naive = filled(Kind(2, 1, torch.float32), 70, 30)
    state = replay.state_dict(tmp_path)
    path = tmp_path / state[SEGMENTS][2][0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    whole = path.read_bytes()
    path.unlink() if damage == "deleted" else path.write_bytes(whole[:-9] if damage == "cut" else bytes(data))
    other = Replay(70, CPU, discount=GAMMA)
    with pytest.raises(ValueError, match=path.name):
        other.load_state_dict(state, tmp_path)
    path.write_bytes(whole)
    other.load_state_dict(state, tmp_path)  # and it can be loaded again
    require_equal(other, naive)


@pytest.mark.usefixtures("small_segments")
def test_a_file_that_is_gone_is_written_again(tmp_path: Path) -> None:
    replay, naive = filled(Kind(2, 1, torch.float32), 70, 30)
    (tmp_path / replay.state_dict(tmp_path)[SEGMENTS][1][0]).unlink()
    other = Replay(70, CPU, discount=GAMMA)
    other.load_state_dict(replay.state_dict(tmp_path), tmp_path)
    require_equal(other, naive)


@pytest.mark.usefixtures("small_segments")
def test_a_state_that_names_files_needs_their_folder(tmp_path: Path) -> None:
    replay = filled(Kind(2, 1, torch.float32), 70, 30)[0]
    with pytest.raises(ValueError, match="give their folder"):
        Replay(70, CPU).load_state_dict(replay.state_dict(tmp_path))


@pytest.mark.usefixtures("small_segments")
def test_an_empty_replay_is_saved(tmp_path: Path) -> None:
    other = filled(Kind(2, 1, torch.float32), 70, 30)[0]
    other.load_state_dict(Replay(70, CPU).state_dict(tmp_path), tmp_path)
    assert other.size == 0


def test_one_face_for_uniform_and_prioritised_draws() -> None:
    # Priorities 1 and 3 at exponent 1 are chances 1/4 and 3/4; (2 P)^-1 = 2, 2/3, over the largest 1, 1/3.
    states = torch.arange(2.0).unsqueeze(1)
    ends = torch.zeros(2, dtype=torch.bool)
    added = Transitions(states, torch.tensor([5, 6]), torch.ones(2), ends, ends, states)
    memories: list[TransitionMemory] = [Replay(2, CPU), PrioritisedReplay(Replay(2, CPU), Priorities(2, CPU, alpha=1.0))]
    weights = []
    for memory in memories:
        assert memory.size == 0
        memory.add(added)
        memory.set_priorities(torch.arange(2), torch.tensor([1.0, 3.0]))
        drawn = memory.sample(400, torch.Generator().manual_seed(0), 1.0)
        assert torch.equal(drawn.actions, drawn.rows + 5)
        weights.append({row: float(drawn.weights[drawn.rows == row].unique()) for row in (0, 1)})
        uniform = memory.sample_uniformly(4000, torch.Generator().manual_seed(0))
        assert float((uniform.actions == 5).float().mean()) == pytest.approx(0.5, abs=0.03)
        assert torch.equal(uniform.weights, torch.ones(4000))
    assert weights == [{0: 1.0, 1: 1.0}, {0: 1.0, 1: pytest.approx(1 / 3)}]
