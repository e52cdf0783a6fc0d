"""A replay in the checkpoints of a run: written piece by piece, resumed bit for bit, whole whenever the run is killed."""

import errno
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import run_agent
from plasticity.agents.replay.buffer import Replay
from plasticity.agents.replay.priorities import Priorities, PrioritisedReplay
from plasticity.agents.replay.segments import segments_named
from plasticity.envs.experience import Experience, Transitions
from plasticity.training.config.settings import CheckpointSettings
from plasticity.training.saving.checkpoint import (
    FOLDER,
    REPLAY,
    discard_after,
    latest_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
    saved_steps,
)
from plasticity.training.saving.saver import RunSaver, restore
from plasticity.training.step import Step

CPU = torch.device("cpu")
CAPACITY = 45  # with two transitions a step the oldest are overwritten from step 23 on


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plasticity.agents.replay.buffer.rows_per_segment", lambda row_bytes: 8)


def transitions(step: int) -> Transitions:
    """Two stacks of two frames that depend on the step alone, in episodes of seven steps."""
    frames = torch.stack([torch.full((2, 3, 3), value % 251, dtype=torch.uint8) for value in (step, step + 1, step + 2)], 1)
    end = torch.full((2,), step % 7 == 6)
    numbers = torch.tensor([2 * step, 2 * step + 1])
    return Transitions(frames[:, :2], numbers, numbers.float(), end, torch.zeros(2, dtype=torch.bool), frames[:, 1:])


class Rememberer:
    """Learns nothing, but draws from a prioritised replay of three-step returns and sets priorities by what it drew."""

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {"q": SimpleNamespace(device=CPU, raise_if_not_finite=lambda: None)}
        self.replay = PrioritisedReplay(Replay(CAPACITY, CPU, n_step=3, frame_stack=2), Priorities(CAPACITY, CPU))
        self.generator = torch.Generator().manual_seed(0)
        self.seen: list[Tensor] = []

    def learn(self, step: int) -> None:
        self.replay.add(transitions(step))
        drawn = self.replay.sample(8, self.generator, 0.5)
        self.replay.set_priorities(drawn.rows, drawn.rewards + 0.1)
        self.seen += list(drawn)

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {"replay": self.replay.state_dict(folder), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], folder: Path | None = None) -> None:
        self.replay.load_state_dict(state["replay"], folder)
        self.generator.set_state(state["generator"])


class Thing:
    """A stream and a tracker in one."""

    step = 0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def flush(self) -> None:
        pass

    @contextmanager
    def paused(self) -> Iterator[None]:
        yield


class Life:
    """One process of a run: starts, or continues from the newest usable checkpoint."""

    def __init__(self, folder: Path, every: int = 10, keep: int = 2) -> None:
        self.agent, self.stream, self.first = Rememberer(), Thing(), 0
        parts: Any = (self.agent, self.stream, Thing())
        self.saver = RunSaver(folder, CheckpointSettings(every, keep), {}, *parts)
        path = latest_checkpoint(folder)
        if path:
            state = load_checkpoint(path)
            discard_after(folder, state["step"])
            agent: Any = self.agent
            restore(state, folder, agent, parts[1], {})
            self.first = self.stream.step = state["step"]

    def go(self, end: int) -> "Life":
        """Continues to a step, where it is killed: nothing is saved then."""
        for step in range(self.stream.step, end):
            self.agent.learn(step)
            self.stream.step = step + 1
            experience = Experience(transitions(step), 0)
            self.saver.after_step(Step(step, step + 1, 0, experience, [], [], learned=True))
        return self


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints" / "replay").iterdir()}


def needed(folder: Path) -> set[str]:
    """Files that the checkpoints in a folder name."""
    states = [load_checkpoint(path) for path in (folder / "checkpoints").glob("*.pt")]
    return {segment.name for state in states for segment in segments_named(state)}


def require_same_end(resumed: Life, whole: Life, same: Any) -> None:
    seen = whole.agent.seen[-len(resumed.agent.seen) :]
    assert resumed.agent.seen
    assert all(torch.equal(a, b) for a, b in zip(resumed.agent.seen, seen, strict=True))
    assert same(resumed.agent.state_dict(), whole.agent.state_dict())


@pytest.fixture(scope="module")
def same() -> Any:
    def compare(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        if isinstance(a, Mapping):
            return a.keys() == b.keys() and all(compare(a[key], b[key]) for key in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(compare(x, y) for x, y in zip(a, b, strict=True))
        return bool(a == b)

    return compare


@pytest.mark.parametrize("killed", [(14,), (29, 47), (11, 23, 35, 58)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, same: Any, killed: tuple[int, ...]) -> None:
    whole = Life(tmp_path / "whole").go(70)
    for step in killed:
        Life(tmp_path / "killed").go(step)
    resumed = Life(tmp_path / "killed")
    assert resumed.first == killed[-1] // 10 * 10
    require_same_end(resumed.go(70), whole, same)


def test_files_are_kept_while_a_checkpoint_needs_them_and_no_longer(tmp_path: Path) -> None:
    before: set[str] = set()
    for end in range(10, 80, 10):
        Life(tmp_path).go(end)  # each in a process of its own
        assert files(tmp_path) == needed(tmp_path)
        assert len(needed(tmp_path)) > 1
        before |= files(tmp_path)
    assert before - files(tmp_path)  # some have gone


def test_what_both_checkpoints_need_is_written_once(tmp_path: Path) -> None:
    life, folder = Life(tmp_path), tmp_path / "checkpoints" / "replay"
    times = [{path.name: path.stat().st_mtime_ns for path in folder.iterdir()} for end in (10, 20) if life.go(end)]
    full = [name for name in times[0] if name.startswith(("rows_000000000000_000000000008", "rows_000000000008_000000000016"))]
    assert len(full) == 2
    assert all(times[1][name] == times[0][name] for name in full)
    assert len(times[1]) > len(times[0])


@pytest.mark.parametrize("damage", ["deleted", "cut"])
def test_a_damaged_replay_file_falls_back_to_the_checkpoint_before(tmp_path: Path, same: Any, damage: str) -> None:
    whole = Life(tmp_path / "whole").go(50)
    folder = Life(tmp_path / "broken").go(34).saver.folder
    newest, older = (load_checkpoint(folder / "checkpoints" / f"step_0000000{step}.pt") for step in (30, 20))
    name = next(iter(set(segments_named(newest)) - set(segments_named(older)))).name
    path = folder / "checkpoints" / "replay" / name
    path.unlink() if damage == "deleted" else path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(UserWarning, match=rf"skipping checkpoint .*step_000000030\.pt: replay file .*{name} ") as warned:
        resumed = Life(folder)
    assert len(warned) == 1
    assert resumed.first == 20
    assert not (folder / "checkpoints" / "step_000000030.pt").exists()
    require_same_end(resumed.go(50), whole, same)
    assert files(folder) == needed(folder)


def test_without_the_files_of_any_checkpoint_there_is_one_clear_error(tmp_path: Path) -> None:
    Life(tmp_path).go(24)
    for name in files(tmp_path):
        (tmp_path / "checkpoints" / "replay" / name).unlink()
    with pytest.warns(UserWarning, match="skipping"), pytest.raises(ValueError, match="no readable checkpoint at"):
        Life(tmp_path)


def test_files_stay_while_a_checkpoint_that_may_need_them_cannot_be_read(tmp_path: Path) -> None:
    life = Life(tmp_path).go(24)
    kept, damaged = files(tmp_path), tmp_path / "checkpoints" / "step_000000020.pt"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    life.go(30)
    assert kept <= files(tmp_path)
    life.go(40)
    assert files(tmp_path) == needed(tmp_path)


@pytest.mark.parametrize("write", [0, 1, 2])
def test_a_full_disk_leaves_earlier_checkpoints_usable(
    tmp_path: Path, same: Any, write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Life(tmp_path / "whole").go(50)
    life = Life(tmp_path / "full").go(29)
    writes = []

    def full(descriptor: int, sync: Any = os.fsync) -> None:
        writes.append(descriptor)
        if len(writes) > 2 * write:  # a file and its folder each
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"cannot write the replay to .*replay: No space left on device") as caught:
            life.go(30)
    assert caught.value.errno == errno.ENOSPC
    resumed = Life(tmp_path / "full")
    assert resumed.first == 20
    require_same_end(resumed.go(50), whole, same)
    assert files(tmp_path / "full") == needed(tmp_path / "full")


SHORT = ["network=mlp", "network.widths=[8]", "agent.batch_size=8", "agent.warmup_env_steps=12", "agent.buffer_transitions=60"]
RUNS = {
    "dqn": ["env=catch"],
    "rainbow": ["agent=rainbow", "env=catch", "agent.stream_widths=[6]", "agent.bins=5"],
    "sac": ["agent=sac", "agent.n_step=3", "env=gym", "env.id=Pendulum-v1"],
}
SOME = [name if name == "dqn" else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Any]:
    """Runs the command line: ``command("whole", "steps=90")`` in folder ``whole``."""
    threads = torch.get_num_threads()

    def go(name: str, *words: str) -> Path:
        assert run_agent.main([f"run_dir={tmp_path / name}", "progress=false", "checkpoint.every_steps=20", *words]) == 0
        return tmp_path / name

    yield go
    torch.set_num_threads(threads)


def agent_at_the_end(folder: Path) -> dict[str, Any]:
    path = latest_checkpoint(folder)
    assert path is not None
    state: dict[str, Any] = load_checkpoint(path)["agent"]
    return state


@pytest.mark.parametrize("name", SOME)
def test_a_run_killed_twice_ends_as_one_that_was_not(tmp_path: Path, command: Any, same: Any, name: str) -> None:
    words = [*SHORT, *RUNS[name], "metrics.every_steps=0", "probe.every_steps=0"]
    whole = command("whole", "steps=110", *words)
    folder = command("killed", "steps=50", *words)
    for killed, steps in ((50, 90), (90, 110)):
        (folder / "checkpoints" / f"step_{killed:09d}.pt").unlink()  # as if it had not got so far as to save there
        assert run_agent.main([f"resume={folder}", f"steps={steps}"]) == 0
    assert same(agent_at_the_end(folder), agent_at_the_end(whole))
    assert files(folder) == needed(folder)


@pytest.mark.parametrize("name", SOME)
def test_observations_in_a_file_change_nothing_and_may_move_when_a_run_goes_on(
    tmp_path: Path, command: Any, same: Any, name: str
) -> None:
    words = [*SHORT, *RUNS[name], "metrics.every_steps=0", "probe.every_steps=0"]
    plain = command("plain", "steps=70", *words)
    mapped = command("mapped", "steps=40", *words, f"agent.replay_folder={tmp_path / 'one'}")
    assert run_agent.main([f"resume={mapped}", "steps=70", f"agent.replay_folder={tmp_path / 'other'}"]) == 0
    assert same(agent_at_the_end(mapped), agent_at_the_end(plain))
    assert [list((tmp_path / folder).iterdir()) for folder in ("one", "other")] == [[], []]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.filterwarnings("error::UserWarning")  # nothing is to be skipped
@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_before_any_change_on_disk_leaves_a_usable_checkpoint(
    tmp_path: Path, same: Any, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename and every deletion of a save is once the one that does not happen any more."""
    whole = Life(tmp_path / "whole").go(50)
    for number in range(1000):
        folder = tmp_path / str(number)
        done: list[Any] = []
        life = Life(folder, keep=keep).go(29)

        def kill_or(change: Any, done: list[Any] = done, number: int = number) -> Any:
            def changed(path: Any, *others: Any, **settings: Any) -> Any:
                if os.path.exists(path):
                    if len(done) == number:
                        raise Killed
                    done.append(path)
                return change(path, *others, **settings)

            return changed

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", kill_or(os.replace))
            patch.setattr(Path, "unlink", kill_or(Path.unlink))
            try:
                life.go(30)
            except Killed:
                pass
            else:
                break
        resumed = Life(folder, keep=keep)
        assert resumed.first in (20, 30)
        if resumed.first == 20:
            assert len(done) < 10
        require_same_end(resumed.go(50), whole, same)
        assert files(folder) == needed(folder)
    assert number > 5  # files were written, a checkpoint, and others deleted


def save_for_ever(folder: Path) -> None:
    """Adds to a replay and saves it, over and over; its files hold eight rows each."""
    replay = Replay(100, CPU)
    for step in range(1, 10**6):
        rows = torch.full((7, 1000), float(step))
        no = torch.zeros(7, dtype=torch.bool)
        replay.add(Transitions(rows, torch.full((7,), step), torch.zeros(7), no, no, rows + 1))
        save_checkpoint(folder, step, {"replay": replay.state_dict(folder / FOLDER / REPLAY)})
        prune(folder, keep=1)


def test_a_kill_at_any_moment_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    folders = [tmp_path / str(index) for index in range(4)]
    fork = get_context("fork")  # which spares four processes their imports
    savers = [fork.Process(target=save_for_ever, args=(folder,), daemon=True) for folder in folders]
    for saver in savers:
        saver.start()
    moments = random.Random(0)
    try:
        for folder, saver in zip(folders, savers, strict=True):
            while max(saved_steps(folder), default=0) < 5:  # by then there are files
                assert saver.is_alive()
                time.sleep(0.001)
            time.sleep(moments.uniform(0.05, 0.3))
            saver.kill()
            saver.join()
            assert saver.exitcode == -signal.SIGKILL
    finally:
        for saver in savers:
            saver.kill()
    for folder in folders:
        newest = latest_checkpoint(folder)
        assert newest is not None
        state = load_checkpoint(newest)  # a fallback would warn, and there is none to fall back to
        replay = Replay(100, CPU)
        replay.load_state_dict(state["replay"], folder / "checkpoints" / "replay")
        batch = replay.batch(torch.arange(replay.size))
        assert int(batch.actions.max()) == state["step"]
        assert torch.equal(batch.inputs, batch.actions.float().unsqueeze(1).expand(-1, 1000))
        save_checkpoint(folder, state["step"] + 1, {})
        prune(folder, keep=1)
        assert files(folder) == set()
