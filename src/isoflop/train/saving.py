"""Checkpoints written beside the training: while one is, the next step computes its gradients."""

from collections.abc import Callable
from threading import Thread

from isoflop.train.checkpoint import Position


class Saving:
    """Saves by `save`; with `beside`, on a thread of its own.

    The state must stay as it is from `begin` until `settle` returns: whoever changes it settles first. Then nothing has
    to be copied, and what is written is what was there, to the bit.
    """

    def __init__(self, save: Callable[[Position], None], beside: bool) -> None:
        self._save, self._beside = save, beside
        self._writer: Thread | None = None
        self._fault: BaseException | None = None

    def begin(self, position: Position) -> None:
        """Begins a checkpoint; without `beside` it is written when this returns."""
        self.settle()
        if self._beside:
            self._writer = Thread(target=self._write, args=(position,), name="checkpoint")
            self._writer.start()
        else:
            self._save(position)

    def settle(self) -> None:
        """Waits until what was begun is written.

        Raises:
            WorkError: it could not be; the checkpoints before are untouched.
        """
        self.wait()
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def wait(self) -> None:
        """As `settle`, and lets be what went wrong: another fault ends the run."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, position: Position) -> None:
        try:
            self._save(position)
        except BaseException as fault:
            self._fault = fault
