"""Ctrl-C, SIGTERM and SIGHUP end the program once, in good order."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """The first of the signals raises KeyboardInterrupt, and all further ones do nothing.

    came: whether there was one. `main` asks, as an exception may get lost on its way: numpy and other C code clear
    whatever is raised in a comparison or a look at an attribute.
    """

    def __init__(self) -> None:
        self.came = False
        self._held = False

    def handle(self) -> None:
        """Take the signals from now on, in a program that begins."""
        self.came = False
        for number in _ENDINGS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # started under nohup
                signal.signal(number, self._interrupt)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Finish first what is done in this block, as it computes with numpy, and raise after it; for a few seconds."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.came:
            raise KeyboardInterrupt

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """Impatience costs neither the tables nor the end of the worker."""
        for number in _ENDINGS:
            signal.signal(number, signal.SIG_IGN)
        self.came = True
        if not self._held:
            raise KeyboardInterrupt


INTERRUPTS = Interrupts()
