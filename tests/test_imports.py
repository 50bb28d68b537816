"""One way down: a room imports only rooms above it, and the pure rooms start without torch."""

import ast
import gc
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "isoflop"
ROOMS = (
    "config",
    "recipe",
    "published",
    "law",
    "data",
    "model",
    "systems",
    "streaming",
    "train",
    "evaluate",
    "release",
    "report",
    "pipeline",
    "studio",
    "cli",
)
FREE = {"errors", "durable", "given", "interrupts", "cache", "compiled", "outcome"}
PURE = {"config", "recipe", "published", "law", "data", "report", "pipeline", "studio", "cli"}


def _imports(path: Path) -> set[tuple[str, bool]]:
    """(module, only while type checking) of every absolute import in the file."""
    # What is collected meanwhile may parse too, of which Python 3.11 loses count (cpython issue 106905).
    gc.disable()
    try:
        tree = ast.parse(path.read_text())
    finally:
        gc.enable()
    checked = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) in checked) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "", id(node) in checked))
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_above_it(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room not in ROOMS:
        return
    for module, _ in _imports(path):
        parts = module.split(".")
        if parts[0] == "isoflop" and len(parts) > 1 and parts[1] not in FREE:
            assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{room} imports {module}"


@pytest.mark.parametrize("room", sorted(PURE))
def test_the_pure_rooms_load_no_torch(room: str) -> None:
    program = f"import sys, isoflop.{room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
