"""The program starts quickly and ends well, whatever it is asked and wherever it writes."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from isoflop.cli.options import as_folder
from isoflop.errors import InputError

HEAVY = ("torch", "numpy", "scipy", "pyarrow", "tokenizers", "matplotlib", "jinja2")
COMMANDS = ("plan", "data", "train", "law", "predict", "evaluate", "report", "release", "run")


def _processor_seconds() -> float:
    """Of the programs started so far; what others take from the machine is not in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_lists_every_command_in_a_blink(isoflop) -> None:
    isoflop("--help")  # compiles what a first import compiles
    begin = _processor_seconds()
    done = isoflop("--help")
    assert _processor_seconds() - begin < 0.5
    assert done.returncode == 0
    assert all(f"  {command} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plan", "--help"], ["--version"], ["plan"], ["plan", "families/pocket.toml"]]
)
def test_no_heavy_library_is_imported_before_it_is_needed(arguments: list[str]) -> None:
    if "families/pocket.toml" in arguments:
        from isoflop.systems import measure_machine

        measure_machine()  # which the first plan on a machine does, with PyTorch
    program = (
        "import sys; from isoflop.cli import main\n"
        f"sys.argv = ['isoflop', *{arguments!r}]\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "[]"


def test_fitting_a_law_imports_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from isoflop.cli import main\n"
        "sys.argv = ['isoflop', 'law', 'nowhere.csv']\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, 'scipy' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "False True"


def test_version_is_the_packages(isoflop) -> None:
    from importlib.metadata import version

    assert isoflop("--version").stdout == f"isoflop {version('isoflop')}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "No such command 'fly'"),
        (["plan"], "Missing argument 'FAMILY.toml'"),
        (["plan", "x.toml", "--jsn"], "--jsn"),
        (["train", "x.toml", "--systems", "0"], "--systems"),
        (["train", "x.toml", "--systems", "many"], "--systems"),
        (["law", "one.csv", "two.csv"], "two.csv"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(isoflop, arguments: list[str], said: str) -> None:
    done = isoflop(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("isoflop: ")
    assert said in done.stderr


@pytest.mark.parametrize("command", [["plan", "tiny.toml"], ["train", "tiny.toml", "--systems", "2"], ["studio"]])
def test_runs_that_can_be_no_folder_are_bad_input(isoflop, family_file: Path, command: list[str]) -> None:
    done = isoflop(*command, "--runs", "corpus.txt")
    said = "corpus.txt: is no folder; give --runs a folder, or where one can be made\n"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(said)
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_is_there_or_can_be_made_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for path in (tmp_path, tmp_path / "new", tmp_path / "new" / "newer"):
        assert as_folder(path) == path
    with pytest.raises(InputError, match="an address is no folder"):
        as_folder(Path("s3://bucket/runs"))
    with pytest.raises(InputError, match=r"File name too long.*give --figures a folder"):
        as_folder(tmp_path / ("x" * 300), "--figures")
    for path in (tmp_path / "file", tmp_path / "file" / "new", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is no folder"):
            as_folder(path)


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m isoflop --help | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_a_closed_standard_output_is_no_error() -> None:
    command = f"{sys.executable} -m isoflop --help >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs the device /dev/full")
def test_a_full_disk_under_standard_output_is_one_line() -> None:
    command = f"{sys.executable} -m isoflop --help > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no space left" in done.stderr


def test_a_locale_without_utf_8_breaks_nothing(isoflop, tmp_path: Path, points_file: Path) -> None:
    named = tmp_path / "größe.csv"
    named.write_text(points_file.read_text())
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    missing = isoflop("law", "größe/nirgends.csv", **ascii_only)
    assert missing.returncode == 2
    assert len(missing.stderr.splitlines()) == 1
    targets = ("--target", "1e6,2e7")
    done = isoflop("predict", str(named), *targets, "--json", **ascii_only)
    assert done.returncode == 0
    json.loads(done.stdout)


def test_debug_shows_where_an_error_arose(isoflop) -> None:
    plain, debug = isoflop("plan", "no.toml"), isoflop("plan", "no.toml", "--debug")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert debug.stderr.splitlines()[-1] == plain.stderr.strip()
    assert plain.returncode == debug.returncode == 2
