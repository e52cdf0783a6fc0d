"""Where the program starts. It imports nothing heavy before it can handle a signal."""

import gc
import os
import sys
import warnings
from pathlib import Path
from typing import IO, Any

from plasticity.training.stopping import LOADING, READING, STOP


def main(arguments: list[str] | None = None) -> int:
    """Does what the command line asks; returns the exit code: 0, 1 for a failure, 2 for a mistake in the words, 130 if stopped.

    Args:
        arguments: The words; None for those of the process; then its console and its exit are handled too.
    """
    if arguments is not None:
        with STOP.installed():
            return _dispatch(arguments)
    warnings.formatwarning = lambda message, *place, **line: f"warning: {message}\n"  # our line numbers do not help a user
    sys.stdout, sys.stderr = Console.of(sys.stdout, 1), Console.of(sys.stderr, 2)
    with STOP.installed(LOADING):
        gc.disable()  # imported objects stay, and searching them for garbage repeatedly takes long
        import plasticity.training.commands  # noqa: F401

        gc.freeze()
        gc.enable()
        code = _dispatch(sys.argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
        if STOP.asked:  # what is to be saved is saved, and the user need not wait for the libraries to clean up
            os._exit(code)
    return code


def _dispatch(arguments: list[str]) -> int:
    from plasticity.training.commands import dispatch  # takes seconds

    STOP.doing = READING
    STOP.raise_if_asked()
    return dispatch(arguments)


def program() -> str:
    """Returns how the user called this program: the installed command, or the script of a checkout."""
    name = Path(sys.argv[0]).name
    return name if name == "plasticity" else "python run_agent.py"


class Console:
    """A text stream that falls silent when nothing reads it any longer, as behind ``| head``; the run continues."""

    def __init__(self, stream: IO[str], descriptor: int) -> None:
        self._stream, self._descriptor = stream, descriptor

    @classmethod
    def of(cls, stream: IO[str] | None, descriptor: int) -> Any:
        """Returns the console for a stream of the process; None, for one that was closed at its start, is silent."""
        return cls(open(os.devnull, "w") if stream is None else stream, descriptor)

    def write(self, text: str) -> int:
        """Writes the text if it can be written."""
        try:
            return self._stream.write(text)
        except OSError:
            self._silence()
            return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        try:
            self._stream.flush()
        except OSError:
            self._silence()

    def _silence(self) -> None:
        """Leads the descriptor nowhere, so that what is still in buffers can be flushed without an error."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
