"""One line for a name that does not exist."""

from collections.abc import Iterable
from difflib import SequenceMatcher

_SHOWN = 3


def unknown_name(setting: str, name: str, known: Iterable[str]) -> str:
    """Returns a message that names the setting, the value and the valid names nearest to it in spelling.

    Args:
        setting: What the user set, ``env.id`` say.
        name: What it was set to.
        known: All valid names.
    """
    nearest = sorted(known, key=lambda valid: (-SequenceMatcher(None, name.lower(), valid.lower()).ratio(), valid))
    return f"{setting}={name} is unknown; the nearest valid names are {', '.join(nearest[:_SHOWN])}"
