"""A training in other processes that waits at a step until a test has done to it what it wants.

However fast the machine is and whatever else it has to do, what the test does happens at that step.
"""

import os
import subprocess
import time
from pathlib import Path

# Laid on the path of the systems: the last of them waits after the update of this step. SIGTERM lets it go on too.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path

hold = Path(__file__).with_name("hold")
last = str(int(os.environ.get("WORLD_SIZE", 1)) - 1)
if "worker" in sys.orig_argv and os.environ.get("RANK") == last and hold.exists():
    from isoflop.train.learner import Learner
    update = Learner.update

    def holding(self, *given):
        update(self, *given)
        if self._systems.place != {place!r} or not hold.exists():
            return
        handler = signal.getsignal(signal.SIGTERM)

        def signalled(number, frame):
            hold.unlink(missing_ok=True)
            handler(number, frame)

        signal.signal(signal.SIGTERM, signalled)
        flat = self.weights.flat
        hold.with_name("part").write_text(f"{{os.getpid()}} {{flat.data_ptr() + flat.nbytes // 2}}")
        hold.with_name("part").rename(hold.with_name("held"))
        while hold.exists():
            time.sleep(0.01)
        signal.signal(signal.SIGTERM, handler)

    Learner.update = holding
"""


class Hold:
    """Holds the last of the systems that are started with `environment`, at a place as `w16 step 21`, once."""

    def __init__(self, folder: Path, place: str) -> None:
        self._hold, self._held = folder / "hold", folder / "held"
        (folder / "sitecustomize.py").write_text(PROGRAM.format(place=place))
        self._hold.touch()
        self.environment = {**os.environ, "PYTHONPATH": str(folder)}

    @property
    def there(self) -> bool:
        """Whether it waits at the place, or has."""
        return self._held.exists()

    def wait(self, process: "subprocess.Popen[str]") -> tuple[int, int]:
        """The waiting system's process, and where the middle of its weights lies in its memory."""
        while not self.there and process.poll() is None:
            time.sleep(0.02)
        assert self.there, process.communicate()
        system, address = self._held.read_text().split()
        return int(system), int(address)

    def let_go(self) -> None:
        """It goes on, and whoever comes to the place later does not wait."""
        self._hold.unlink(missing_ok=True)
