"""What goes wrong on purpose: one class a cause, one line a message."""


class InputError(Exception):
    """Something the user gave cannot work. The command ends with exit code 2 and has written nothing.

    The message is one line that says what is wrong, where, and what would do.
    """


class FamilyError(InputError):
    """Something that a family file says cannot work. The message begins with the key.

    Those who plan know the key and not the file: the command line puts the file's name before it.
    """


class WorkError(Exception):
    """A fault while working that no input would have avoided: a full disk, a damaged file. Exit code 1.

    The message is one line that says what failed, where, and what would help.
    """


class ChangedError(WorkError):
    """Bits in memory are not those that were written there: the machine is at fault."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(
            f"{where}bits of {what} changed in memory by themselves since the last update; nothing made of them was "
            "saved: run again to go on from the last checkpoint, on another machine if it happens again"
        )
        self.what = what


class DivergenceError(WorkError):
    """Training has run away: its loss or gradient is not finite."""


class LostError(WorkError):
    """Another system is gone: this one cannot go on alone, and can when all are started again."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. Exit code 128 + `signal_number`.

    Everything is `saved`, or else only what the last checkpoint has.

    Not an `Exception`, so that no handler for faults swallows it.
    """

    def __init__(self, signal_number: int, saved: bool = True) -> None:
        super().__init__(signal_number, saved)
        self.signal_number, self.saved = signal_number, saved

    def __str__(self) -> str:
        return f"interrupted by signal {self.signal_number}"
