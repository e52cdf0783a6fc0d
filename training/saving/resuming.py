"""``resume=``: the command line of a run that goes on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override

from plasticity.training.config.command_line import Request, check_command_line, parse_overrides
from plasticity.training.saving.run_folder import saved_overrides


def resumed_request(folder: Path, words: Sequence[str], configs: Path) -> Request:
    """Composes the run's own command line again, with the changes that ``words`` make to it.

    Whether those changes are allowed is for the checkpoint to say, which is compared with the result.

    Args:
        folder: The run folder.
        words: Words other than ``resume=``.
        configs: Folder of the YAML files.

    Raises:
        ValueError: If the folder is not a run folder, or a word is wrong.
    """
    saved = saved_overrides(folder)
    if any(word in ("-m", "--multirun") for word in words):
        raise ValueError("resume goes on with one run; leave -m out")
    new = {override.key_or_group: override for override in parse_overrides(words)}
    if "run_dir" in new:
        raise ValueError("resume goes on in the run's own folder; leave run_dir out")
    kept = [word for word, override in zip(saved, parse_overrides(saved), strict=True) if _still_said(override, new)]
    return check_command_line([*kept, *words], configs)


def _still_said(old: Override, new: Mapping[str, Override]) -> bool:
    """Tells whether an old word stands: it is not said again, and sets no method that the new words leave out."""
    group, _, rest = old.key_or_group.partition(".")
    if group == "interventions" and "intervention" in new:
        chosen = new["intervention"].value()
        if rest.partition(".")[0] not in (chosen if isinstance(chosen, list) else [chosen]):
            return False
    return old.key_or_group not in new
