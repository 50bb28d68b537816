"""What must not stand in the sources, and what the lock file must hold."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def calls(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each call in a file: its name as written, and its named arguments."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords if one.arg}


def test_no_call_runs_text_as_code_or_hands_it_to_a_shell() -> None:
    forbidden = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "yaml.load", "yaml.unsafe_load"}
    found = [
        (path.name, name)
        for path in SOURCES
        for name, named in calls(path)
        if name in forbidden or named.get("shell", "False") != "False"
    ]
    assert found == []


def test_pickles_are_read_for_weights_alone() -> None:
    for path in SOURCES:
        for name, named in calls(path):
            if name in ("torch.load", "load") and "torch" in name:
                assert named.get("weights_only") == "True", path
            if name in ("np.load", "numpy.load"):
                assert named.get("allow_pickle", "False") == "False", path
            assert name not in ("pickle.load", "pickle.loads", "joblib.load"), path
            # Of torch.distributed's, what carries objects carries pickles.
            assert not name.endswith(("_object", "_object_list")), path


def test_every_locked_package_has_the_hashes_of_its_files() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    assert len(packages) > 50
    for package in packages:
        if "registry" in package["source"]:
            files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
            assert files, package["name"]
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]) for file in files), package["name"]
