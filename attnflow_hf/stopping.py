"""`Stopped`: Ctrl-C or SIGTERM as an exception that carries its exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The user or the system asked the process to stop.

    Args:
        signal_number: By which signal.
        message: What to say about it.
    """

    def __init__(self, signal_number: int, message: str = "stopped") -> None:
        """Keep the signal and the message."""
        super().__init__(message)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """The exit code by which shells tell that a signal ended a process."""
        return 128 + self.signal_number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in the block when SIGINT or SIGTERM comes; a second one ends the process at once.

    A signal that the process was started to ignore, as shells do for SIGINT in the background, stays ignored.
    """
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)
