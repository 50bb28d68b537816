"""A training in other processes that waits at a step until a test has done to it what it wants.

However fast the machine is and whatever else it has to do, what the test does happens at that step.
"""

import os
import subprocess
import time
from pathlib import Path

# Laid on the path of the processes. Among several systems it is the last one that waits, after the update of the step.
# SIGTERM lets it go on.
PROGRAM = """
import importlib.util, os, signal, sys, time
from pathlib import Path

hold = Path(__file__).with_name("hold")
last = int(os.environ.get("WORLD_SIZE", 1)) - 1 == int(os.environ.get("RANK", 0))

def place():
    try:
        return hold.read_text()
    except OSError:
        return None

def wait(process):
    handler = signal.getsignal(signal.SIGTERM)

    def signalled(number, frame):
        hold.unlink(missing_ok=True)
        handler(number, frame)

    signal.signal(signal.SIGTERM, signalled)
    hold.with_name("part").write_text(process)
    hold.with_name("part").rename(hold.with_name("held"))
    while hold.exists():
        time.sleep(0.01)
    signal.signal(signal.SIGTERM, handler)

class Finder:
    # As the module of the learner is imported: PyTorch is loaded by then, or is about to be.
    def find_spec(self, name, path, target=None):
        if name != "isoflop.train.learner":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def executed(module):
            execute(module)
            update = module.Learner.update

            def updated(learner, *given):
                update(learner, *given)
                if learner._systems.place == place():
                    flat = learner.weights.flat
                    wait(f"{os.getpid()} {flat.data_ptr() + flat.nbytes // 2}")

            module.Learner.update = updated

        spec.loader.exec_module = executed
        return spec

if last:
    sys.meta_path.insert(0, Finder())
"""


class Hold:
    """Makes one process wait, of those that are started with `folder` as their PYTHONPATH."""

    def __init__(self, folder: Path) -> None:
        self._hold, self._held = folder / "hold", folder / "held"
        (folder / "sitecustomize.py").write_text(PROGRAM)
        self.environment = {**os.environ, "PYTHONPATH": str(folder)}

    def at(self, place: str) -> None:
        """From now on whoever comes to a place as `w16 step 21` waits there, until it is let go."""
        self._held.unlink(missing_ok=True)
        part = self._hold.with_name("next")
        part.write_text(place)
        part.rename(self._hold)

    @property
    def there(self) -> bool:
        """Whether one waits at the place, or has."""
        return self._held.exists()

    def wait(self, process: "subprocess.Popen[str]") -> tuple[int, int]:
        """The one that waits, of those that `process` has started; and where the middle of its weights lies."""
        while not self.there and process.poll() is None:
            time.sleep(0.02)
        assert self.there, process.communicate()
        waiting, address = self._held.read_text().split()
        return int(waiting), int(address)

    def let_go(self) -> None:
        """It goes on, and nobody waits any more."""
        self._hold.unlink(missing_ok=True)
