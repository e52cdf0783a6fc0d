"""A program in a process of its own, which works on request and waits otherwise."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, Self

READY, GO, DONE = "ready", "go", "done"


class Worker:
    """Runs a command that writes ``ready`` once it is warm, and then one line of ``done`` for every line it reads.

    Its other output is ignored. While it waits it takes no processor time, so that several of them can work in turn.

    Args:
        command: The command and its arguments.

    Raises:
        RuntimeError: If the command ends before it is ready.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._await(READY)

    def processor_seconds(self) -> float:
        """Processor time of the process so far, of all its threads (Linux)."""
        return time.clock_gettime((~self._process.pid << 3) | 2)  # the number of another process's clock, see clock_getcpuclockid

    def __call__(self) -> None:
        """Lets the program do its work once, and returns when it is done; RuntimeError if it ends instead."""
        stream = self._process.stdin
        assert stream is not None
        stream.write(f"{GO}\n")
        stream.flush()
        self._await(DONE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def _await(self, word: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
        raise RuntimeError(f"{' '.join(map(str, self._process.args))} ended with code {self._process.wait()}")  # type: ignore[arg-type]


def serve(program: Callable[[], object], orders: IO[str] = sys.stdin, answers: IO[str] = sys.stdout) -> None:
    """The other side: calls ``program`` once to warm up, and then once for every line of ``orders``, until they end."""
    program()
    print(READY, file=answers, flush=True)
    for _ in orders:
        program()
        print(DONE, file=answers, flush=True)
