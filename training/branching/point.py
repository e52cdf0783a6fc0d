"""The moment of a run from which another branches: one of its checkpoints."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity.training.saving.checkpoint import checkpoint_path, config_in, load_checkpoint, require_run, saved_steps
from plasticity.training.saving.saver import PARTS

_BLOCK = 1 << 20
KEEP, CLEAR = REPLAYS = ("keep", "clear")


@dataclass(frozen=True)
class BranchPoint:
    """A checkpoint in the folder of another run, from which a branch continues.

    Attributes:
        folder: Run folder of the parent.
        step: The checkpoint's.
        sha256: Of the checkpoint's file.
        repeat: 0 for the parent's random numbers; any other number draws new ones.
        drop: Methods of the parent that end here.
        measure: Metrics that are measured on the network as it was loaded, before anything acts.
        replay: ``keep`` for the parent's replay, ``clear`` for an empty one.
    """

    folder: Path
    step: int
    sha256: str
    repeat: int = 0
    drop: tuple[str, ...] = ()
    measure: tuple[str, ...] = ()
    replay: str = KEEP

    @property
    def where(self) -> str:
        """The words that name it, for messages."""
        return f"branch.run={self.folder}"

    @property
    def reads_replay(self) -> bool:
        """Whether the files of the parent's replay are needed: to continue with it, or to measure on it."""
        return self.replay == KEEP or bool(self.measure)

    def load(self) -> dict[str, Any]:
        """Returns the state of the parent at that moment, with the files of its replay where they are.

        Raises:
            ValueError: If the checkpoint is gone, damaged, or another than it was.
        """
        path = checkpoint_path(self.folder, self.step)
        try:
            same = _digest(path) == self.sha256
        except OSError as error:
            raise ValueError(f"{self.where}: {path} cannot be read: {error.strerror}") from error
        if not same:
            raise ValueError(f"{self.where}: {path} has changed since the branch was planned; start it again")
        state = load_checkpoint(path, replay=self.reads_replay)
        if state["step"] != self.step:
            raise ValueError(f"{self.where}: the checkpoint of step {self.step} is damaged; kept: {_steps(self.folder)}")
        require_run(state, PARTS, self.where)
        return state

    def config(self) -> dict[str, Any]:
        """Returns the resolved config of the parent as it was at that moment.

        Raises:
            ValueError: If the checkpoint cannot be read.
        """
        path = checkpoint_path(self.folder, self.step)
        config = config_in(path)
        if config is None:
            raise ValueError(f"{self.where}: {path} is not a readable checkpoint of a run; kept: {_steps(self.folder)}")
        return config

    def told(self) -> dict[str, Any]:
        """Returns what the branch's run folder records of it, in plain containers."""
        return {
            "run": str(self.folder),
            "step": self.step,
            "checkpoint_sha256": self.sha256,
            "repeat": self.repeat,
            "drop": list(self.drop),
            "measure": list(self.measure),
            "replay": self.replay,
        }


def find_point(folder: Path, step: int | None) -> BranchPoint:
    """Returns the point of a run's checkpoint.

    Args:
        folder: A run folder.
        step: None for the newest.

    Raises:
        ValueError: If there is no such checkpoint.
    """
    if not folder.is_dir():
        raise ValueError(f"branch.run={folder}: there is no such folder")
    kept = saved_steps(folder)
    if not kept:
        raise ValueError(f"branch.run={folder} holds no checkpoint of a run")
    chosen = kept[-1] if step is None else step
    if chosen not in kept:
        raise ValueError(
            f"branch.step={step} has no checkpoint in {folder}; kept: {_steps(folder)} (checkpoint.at_steps=[{step}] keeps one)"
        )
    return BranchPoint(folder.absolute(), chosen, _digest(checkpoint_path(folder, chosen)))


def _steps(folder: Path) -> str:
    return ", ".join(map(str, saved_steps(folder)))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
