import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
import torch

from plasticity.training.saving.checkpoint import (
    discard_after,
    latest_checkpoint,
    load_checkpoint,
    prune,
    require_match,
    save_checkpoint,
    saved_steps,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_every_type_a_state_holds_comes_back(tmp_path):
    generator = torch.Generator().manual_seed(1)
    torch.rand(3, generator=generator)
    state = {
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 17: {}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "weights": OrderedDict(w=torch.arange(6.0).reshape(2, 3)),
        "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        "frames": torch.arange(4, dtype=torch.uint8),
        "generator": generator.get_state(),
        "numpy": np.random.default_rng(5).bit_generator.state,
        "nothing": None,
        "text": "Äbc",
        "flag": True,
        "ids": {1, 2},
        "nan": float("nan"),
    }
    loaded = load_checkpoint(save_checkpoint(tmp_path, 12, state))
    assert loaded["step"] == 12
    assert loaded["optimizer"] == state["optimizer"]
    assert type(loaded["optimizer"]["param_groups"][0]["betas"]) is tuple
    assert torch.equal(loaded["weights"]["w"], state["weights"]["w"])
    assert loaded["half"].dtype == torch.bfloat16
    assert loaded["half"].tolist() == [1.5, -2.25]
    assert torch.equal(loaded["frames"], state["frames"])
    assert (loaded["nothing"], loaded["text"], loaded["flag"], loaded["ids"]) == (None, "Äbc", True, {1, 2})
    assert loaded["nan"] != loaded["nan"]
    assert state["numpy"]["state"]["state"].bit_length() > 64
    again = torch.Generator()
    again.set_state(loaded["generator"])
    assert torch.rand((), generator=again) == torch.rand((), generator=generator)
    numbers = np.random.default_rng()
    numbers.bit_generator.state = loaded["numpy"]
    assert numbers.integers(1 << 60) == np.random.default_rng(5).integers(1 << 60)


def test_integers_of_128_bits_come_back(tmp_path):
    loaded = load_checkpoint(save_checkpoint(tmp_path, 1, {"a": (1 << 128) - 1, "b": -(1 << 127)}))
    assert (loaded["a"], loaded["b"]) == ((1 << 128) - 1, -(1 << 127))


def test_the_name_holds_the_step_and_the_newest_is_found_by_number(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for step in (999_999_999, 1_000_000_000):
        save_checkpoint(tmp_path, step, {})
    path = save_checkpoint(tmp_path, 123, {})
    assert path == tmp_path / "checkpoints" / "step_000000123.pt"
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step_1000000000.pt"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(1), "state.replay.x is a numpy.float64"),
        (np.zeros(2), "state.replay.x is a numpy.ndarray"),
        (deque([1]), "state.replay.x is a collections.deque"),
        ([0, {"y": Path("a")}], r"state.replay.x\[1\].y is a pathlib"),
        ({1.5: 0}, "state.replay.x has the key 1.5"),
    ],
)
def test_a_state_that_could_not_be_read_back_is_refused_when_saved(tmp_path, value, message):
    with pytest.raises(TypeError, match=message):
        save_checkpoint(tmp_path, 1, {"replay": {"x": value}})
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(("step", "state"), [(-1, {}), (3, {"step": 4})])
def test_the_step_is_checked(tmp_path, step, state):
    with pytest.raises(ValueError, match=f"step={step}"):
        save_checkpoint(tmp_path, step, state)


def test_pruning_keeps_the_newest_and_sweeps_up(tmp_path):
    for step in (5, 10, 200, 1000):
        save_checkpoint(tmp_path, step, {})
    (tmp_path / "checkpoints" / "step_000000300.pt.tmp").write_bytes(b"half")
    (tmp_path / "checkpoints" / "mine.txt").write_text("stays")
    prune(tmp_path, keep=2)
    assert names(tmp_path) == ["mine.txt", "step_000000200.pt", "step_000001000.pt"]
    with pytest.raises(ValueError, match="keep=0"):
        prune(tmp_path, keep=0)


def test_pruning_keeps_the_first_at_or_after_given_steps(tmp_path):
    for step in (5, 10, 200, 300, 1000, 2000):
        save_checkpoint(tmp_path, step, {})
    prune(tmp_path, keep=2, at_steps=[10, 150, 5000])  # 10 itself, 200 for 150, none yet for 5,000
    assert saved_steps(tmp_path) == [10, 200, 1000, 2000]
    prune(tmp_path, keep=1, at_steps=[1000])
    assert saved_steps(tmp_path) == [1000, 2000]


def test_later_checkpoints_can_be_discarded(tmp_path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, {})
    discard_after(tmp_path, 10)
    assert names(tmp_path) == ["step_000000005.pt", "step_000000010.pt"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_one_bit_of_a_weight(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    where = raw.index(np.full(4, 7.0, dtype=np.float32).tobytes())
    raw[where] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", [truncate, empty, flip_one_bit_of_a_weight])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_with_a_warning(tmp_path, damage):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"w": torch.full((1000,), 7.0)})
    damage(tmp_path / "checkpoints" / "step_000000003.pt")
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    with pytest.warns(UserWarning, match=r"skipping checkpoint .*step_000000003\.pt: it is damaged"):
        loaded = load_checkpoint(newest)
    assert loaded["step"] == 2


def test_an_older_checkpoint_can_be_asked_for(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {})
    assert load_checkpoint(tmp_path / "checkpoints" / "step_000000002.pt")["step"] == 2


def test_without_a_readable_checkpoint_there_is_one_clear_error(tmp_path):
    path = save_checkpoint(tmp_path, 3, {"x": 1})
    empty(path)
    with pytest.warns(UserWarning, match="skipping"), pytest.raises(ValueError, match="no readable checkpoint at"):
        load_checkpoint(path)


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["zip", "pickle"])
def test_a_checkpoint_cannot_run_code(tmp_path, kind):
    path = save_checkpoint(tmp_path, 3, {"x": 1})
    marker = tmp_path / "ran"
    code = Malicious(f"touch {marker}")
    if kind == "zip":
        torch.save({"x": code}, path)
    else:
        path.write_bytes(pickle.dumps(code))
    with pytest.warns(UserWarning, match="skipping") as warned, pytest.raises(ValueError, match="no readable checkpoint"):
        load_checkpoint(path)
    assert "weights_only" not in str(warned[0].message)  # nobody is told how to read it all the same
    assert not marker.exists()


@pytest.mark.parametrize("state", [[1, 2], {"x": 1}])
def test_a_file_of_another_program_is_skipped(tmp_path, state):
    save_checkpoint(tmp_path, 2, {"x": 1})
    path = save_checkpoint(tmp_path, 3, {"x": 1})
    torch.save(state, path)
    with pytest.warns(UserWarning, match="skipping .*step_000000003.pt: it is not a checkpoint of this program"):
        assert load_checkpoint(path)["step"] == 2


def test_a_full_disk_leaves_the_earlier_checkpoint_and_says_so(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"x": 1})

    def full(state, file):
        file.write(b"half")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 - as torch does

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"step_000000002\.pt: No space left on device; earlier checkpoints are") as caught:
        save_checkpoint(tmp_path, 2, {"x": 1})
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["step_000000001.pt"]


SAVER = """
import sys, torch
from pathlib import Path
from plasticity.training.saving.checkpoint import prune, save_checkpoint
torch.set_num_threads(1)
for step in range(1, 10**6):
    save_checkpoint(Path(sys.argv[1]), step, {"w": torch.full((500_000,), float(step)), "twice": 2 * step})
    prune(Path(sys.argv[1]), keep=1)
"""


def test_a_kill_at_any_moment_leaves_a_readable_checkpoint(tmp_path):
    folders = [tmp_path / str(index) for index in range(6)]
    savers = [subprocess.Popen([sys.executable, "-c", SAVER, str(folder)]) for folder in folders]
    moments = random.Random(0)
    try:
        for folder, saver in zip(folders, savers, strict=True):
            while latest_checkpoint(folder) is None:
                assert saver.poll() is None
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.1))
            saver.send_signal(signal.SIGKILL)
            saver.wait()
    finally:
        for saver in savers:
            saver.kill()
    for folder in folders:
        newest = latest_checkpoint(folder)
        assert newest is not None
        loaded = load_checkpoint(newest)  # a fallback would warn, and there is none to fall back to
        assert loaded["w"].unique().tolist() == [float(loaded["step"])]
        assert loaded["twice"] == 2 * loaded["step"]


def test_equal_configurations_match():
    saved = {"network": {"widths": [64, 64], "norm": None}, "seed": 0, "interventions": {}}
    require_match(saved, {"network": {"widths": (64, 64), "norm": None}, "seed": 0, "interventions": {}})


def test_each_difference_is_named_with_both_sides():
    saved = {"network": {"widths": [128, 128]}, "agent": {"name": "dqn"}, "steps": 10, "plugins": {}}
    requested = {"network": {"widths": [64]}, "agent": {"name": "dqn", "double": True}, "steps": 20, "plugins": {}}
    with pytest.raises(ValueError, match="checkpoint") as caught:
        require_match(saved, requested, ignore=["steps"])
    assert str(caught.value) == (
        "checkpoint has no agent.double, command line has agent.double=True; "
        "checkpoint has network.widths=[128, 128], command line has network.widths=[64]"
    )


def test_an_ignored_name_covers_what_is_below_it_and_nothing_else():
    saved = {"checkpoint": {"keep": 1}, "checkpoint_style": 1}
    require_match(saved, {"checkpoint": {"keep": 2}, "checkpoint_style": 1}, ignore={"checkpoint"})
    with pytest.raises(ValueError, match="checkpoint_style=2"):
        require_match(saved, {"checkpoint": {"keep": 1}, "checkpoint_style": 2}, ignore={"checkpoint"})
