"""What MuJoCo has to say, as Python warnings instead of a file in the working directory."""

import warnings

import mujoco  # type: ignore[import-untyped]


def warn_in_python() -> None:
    """Sends MuJoCo's warnings through ``warnings.warn``, except those on outdated words in model files, which are not the user's.

    Without it MuJoCo writes ``MUJOCO_LOG.TXT`` wherever the process happens to run.
    """
    mujoco.set_mju_user_warning(_warn)


def _warn(message: str) -> None:
    if "deprecated" not in message:
        warnings.warn(f"MuJoCo: {message.strip()}", stacklevel=2)
