"""Stopping a run by Ctrl-C (SIGINT) or SIGTERM, wherever it is.

Only the standard library is imported, so that signals are handled before anything heavy is imported.

What a signal does depends on what the main thread is doing at that moment:

- ``LOADING``: nothing is on disk, and the process ends at once.
- ``READING``: building and measuring change nothing, and are left by an exception at once.
- ``STEPPING``: a step is finished first, and the loop, which checks ``asked``, decides what follows.
- ``WRITING``: a checkpoint is finished first.

A step, or a call into a library that never comes back to Python, may take longer than a user waits. A thread that sleeps until
the first SIGINT handles this: ``LIMIT_SECONDS`` later it calls ``last_resort``, which may save a copy of an earlier state, and
ends the process. SIGTERM comes from machines, which wait, and has no such limit. A second signal ends the process at once. A
process that has runs in other processes waits, within limits, until they have saved themselves. All files of a run are made so
that none of this can damage them.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

EXIT_CODE: Final = 130
LIMIT_SECONDS: Final = 1.2
OTHERS_SECONDS: Final = 10.0  # that runs in other processes have to save themselves
LOADING, READING, STEPPING, WRITING = "loading", "reading", "stepping", "writing"
_AGAIN_SECONDS: Final = 0.005
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised where work that changes nothing is left because the user asked to stop."""


class Stop:
    """What has been asked of this process, and what the main thread is doing.

    Attributes:
        asked: Whether a signal to stop has come.
        doing: ``LOADING``, ``READING``, ``STEPPING`` or ``WRITING``.
        last_resort: Called by the thread that ends a process which does not end itself; returns whether it may be ended now.
        ending: Held while a checkpoint is written, so that the process is not ended in the middle of it.
    """

    def __init__(self) -> None:
        self.asked = False
        self.doing = LOADING
        self.last_resort: Callable[[], bool] = lambda: True
        self.ending = threading.Lock()
        self._others: Callable[[], bool] = lambda: False
        self._installed = False
        self._block: object | None = None
        self._before: dict[int, Any] = {}
        os.register_at_fork(after_in_child=self._forked)

    @contextmanager
    def installed(self, doing: str = READING) -> Iterator[None]:
        """Takes over the signals for the block, in the main thread; inside another such block it does nothing."""
        if self._installed or threading.current_thread() is not threading.main_thread():
            yield
            return
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before: dict[int, Any] = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._try_again)
        descriptor = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._before = before
        self.asked, self.doing, self._installed = False, doing, True
        self._block = block = object()
        threading.Thread(target=self._watch, args=(reading, block), name="stopping", daemon=True).start()
        try:
            yield
        finally:
            self.asked, self._installed, self._block = False, False, None
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.set_wakeup_fd(descriptor)
            os.close(writing)
            for number, handler in before.items():
                signal.signal(number, handler)
            self.last_resort = lambda: True

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Lets a signal end the block at once, by ``Stopped``; also one that came before."""
        before, self.doing = self.doing, READING
        try:
            with unmasked():
                self.raise_if_asked()
                yield
        finally:
            self.doing = before

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Lets nothing but the last resort interrupt the block, which has to check ``asked`` itself."""
        before, self.doing = self.doing, STEPPING
        try:
            yield
        finally:
            self.doing = before

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keeps the process from being ended within the block, except by a second signal."""
        with self.ending:
            before, self.doing = self.doing, WRITING
            try:
                yield
            finally:
                self.doing = before

    @contextmanager
    def waiting_for(self, others: Callable[[], bool]) -> Iterator[None]:
        """Lets the runs of other processes be saved before a signal leaves the block: a launcher would kill them.

        The terminal gives Ctrl-C to them as well.

        Args:
            others: Tells whether one of them is not yet saved.
        """
        self._others, self.last_resort = others, lambda: not others()
        try:
            yield
        finally:
            self._others, self.last_resort = lambda: False, lambda: True

    def raise_if_asked(self) -> None:
        """Raises ``Stopped`` if a signal has come."""
        if self.asked:
            raise Stopped

    def _forked(self) -> None:
        """Restores the signals in a fork, such as a process of a vector environment: it would wake the thread of its parent."""
        if self._installed:
            signal.set_wakeup_fd(-1)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._installed, self._block = False, None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # the second ends the process, even within a call that never returns to Python
        if self.doing == LOADING:
            leave("stopped\n")
        self._try_again(number, frame)

    def _try_again(self, number: int, frame: FrameType | None) -> None:
        """Raises ``Stopped`` if the main thread is where that does no harm, otherwise checks again a little later."""
        if self.doing != READING:
            return
        if _restores(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
            return
        end = time.monotonic() + OTHERS_SECONDS
        while self._others() and time.monotonic() < end:
            time.sleep(_AGAIN_SECONDS)
        raise Stopped

    def _watch(self, descriptor: int, block: object) -> None:
        """Ends the process some time after the first SIGINT, or at the second signal; ends itself with the pipe."""
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            count = 0
            while number := pipe.read(1):
                if number[0] not in _SIGNALS:
                    continue
                count += 1
                if count > 1:
                    leave()
                if number[0] == signal.SIGINT:
                    timer = threading.Timer(LIMIT_SECONDS, self._end, (block,))
                    timer.daemon = True
                    timer.start()

    def _end(self, block: object) -> None:
        with self.ending:
            if self._block is block and self.last_resort():
                leave()


@contextmanager
def unmasked() -> Iterator[None]:
    """Raises ``Stopped`` again where a library that it cut off raised an error of its own while it restored state.

    An OSError is kept: the checkpoint that a stop asks for may have met a full disk.
    """
    try:
        yield
    except Exception as error:
        before: BaseException | None = error
        while before is not None and not isinstance(before, Stopped):
            before = before.__cause__ or before.__context__
        if before is None or isinstance(error, OSError):
            raise
        raise Stopped from error


def _restores(frame: FrameType | None) -> bool:
    """Returns whether a frame or one that called it is restoring state, which an exception would cut off."""
    while frame is not None:
        if frame.f_code.co_name in ("__enter__", "__exit__", "__del__", "_find_and_load"):
            return True
        frame = frame.f_back
    return False


def leave(message: str = "") -> None:
    """Ends the process here and now."""
    if message:
        os.write(2, message.encode())
    os._exit(EXIT_CODE)


STOP: Final = Stop()
