"""Help for names that are not known."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from typing import Final

_SHOWN: Final = 3


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `` (did you mean <closest>?)`` for the closest known name, or nothing if none is close."""
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def unknown_name(setting: str, name: str, known: Iterable[str]) -> str:
    """Returns a message for one of very many names: the setting, the value and the valid names of nearest spelling.

    Args:
        setting: The setting's key, such as ``env.id``.
        name: Its value.
        known: All valid names.
    """
    nearest = sorted(known, key=lambda valid: (-SequenceMatcher(None, name.lower(), valid.lower()).ratio(), valid))
    return f"{setting}={name} is unknown; the nearest valid names are {', '.join(nearest[:_SHOWN])}"
