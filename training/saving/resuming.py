"""``resume=``: what a run folder states about the run that is continued."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from plasticity.training.config.words import parse_overrides
from plasticity.training.saving.checkpoint import saved_config
from plasticity.training.saving.run_folder import CONFIG, config_remark, known_of, saved_overrides

# What may change when a run is continued: how far, how fast, and what is watched; none of it changes what is learned.
MAY_CHANGE: Final = (
    "choices",
    "steps",
    "device",
    "threads",
    "log_every_steps",
    "progress",
    "run_dir",
    "resume",
    "plugins",
    "mode",
    "video",
    "metrics",
    "probe",
    "evaluation",
    "task_evaluation",
    "checkpoint",
    "agent.replay_folder",
    "env.keep_on",
)


def saved_settings(folder: Path) -> dict[str, Any]:
    """Returns the resolved config of the run in a folder, as it was when the run was last started or resumed.

    That is ``config.yaml``, or that of the newest readable checkpoint if that file has been edited or lost.

    Raises:
        ValueError: If the folder is not a run folder, or neither is left.
    """
    known_of(folder)
    if config_remark(folder) is None:
        return dict(yaml.safe_load((folder / CONFIG).read_text()))
    config = saved_config(folder)
    if config is None:
        raise ValueError(
            f"resume={folder}: {CONFIG} is missing or has been edited, and there is no checkpoint that holds it; start a new run"
        )
    return config


def all_words(folder: Path, words: Sequence[str]) -> list[str]:
    """Returns the words with which a run was started and resumed, new ones in place of old ones, to be kept in its folder."""
    said = [*saved_overrides(folder), *words]
    return list({override.key_or_group: word for word, override in zip(said, parse_overrides(said), strict=True)}.values())
