"""MuJoCo's messages, as Python warnings instead of a file in the working directory."""

import warnings

import mujoco  # type: ignore[import-untyped]


def warn_in_python() -> None:
    """Sends MuJoCo's warnings through ``warnings.warn``, except those on outdated words in model files, not written by the user.

    Without it MuJoCo writes ``MUJOCO_LOG.TXT`` into the working directory of the process.
    """
    mujoco.set_mju_user_warning(_warn)


def _warn(message: str) -> None:
    if "deprecated" not in message:
        warnings.warn(f"MuJoCo: {message.strip()}", stacklevel=2)
