"""``resume=``: the command line of a run that goes on."""

import json
from collections.abc import Sequence
from pathlib import Path

from training.command_line import Request, check_command_line, parse_overrides
from training.run_folder import PROVENANCE


def resumed_request(folder: Path, words: Sequence[str], configs: Path) -> Request:
    """Composes the run's own command line again, with the changes that ``words`` make to it.

    Whether those changes are allowed is for the checkpoint to say, which is compared with the result.

    Args:
        folder: The run folder.
        words: Words beside ``resume=``.
        configs: Folder of the YAML files.

    Raises:
        ValueError: If the folder is not a run folder, or a word is wrong.
    """
    path = folder / PROVENANCE
    if not path.is_file():
        raise ValueError(f"resume={folder} is not a run folder: it holds no {PROVENANCE}")
    if any(word in ("-m", "--multirun") for word in words):
        raise ValueError("resume goes on with one run; leave -m out")
    saved: list[str] = json.loads(path.read_text())["overrides"]
    new = {override.key_or_group for override in parse_overrides(words)}
    kept = [word for word in saved if parse_overrides([word])[0].key_or_group not in new]
    return check_command_line([*kept, *words], configs)
