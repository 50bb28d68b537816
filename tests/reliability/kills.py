"""Kills a run at seeded instants, starts it again, and compares what it ends with.

`python -m tests.reliability.kills FOLDER SEED COUNT` kills COUNT times, several times on the way to each result. Each
start is one of the ways to execute the same family: here, on two systems, streamed. SIGKILL, SIGTERM or SIGINT goes to
the command, to one of its processes, or to all of them.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WAYS: tuple[tuple[str, ...], ...] = ((), ("--systems", "2"), ("--execution", "streamed"))
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WHO = ("command", "one", "all")
# Nothing hangs for so long: a run that was killed once may go on to its end on a machine with much else to do.
LONGEST_SECONDS = 600
FAMILY = """
name = "tiny"
precision = "fp32"
checkpoint_seconds = 0.3

[data]
source = "corpus.jsonl"
licence = "CC0-1.0"
tokenizer = { kind = "bpe", vocab_size = 300 }
context_length = 32
held_out_fraction = 0.1
epochs = 2

[recipe]
tokens_per_parameter = 2.0
batch_schedule = [{ from_tokens = 0, sequences = 8 }]
""" + "".join(f'\n[[models]]\nname = "w{d}"\nn_layers = 1\nd_model = {d}\nn_heads = 2\n' for d in (8, 12, 16, 24, 32))

# What Python says of SIGINT to an interpreter that has not begun a program yet. PyTorch starts workers in sessions of
# their own: no Ctrl-C reaches them there, only a signal sent to one by number, as here.
INTERPRETER = re.compile(
    r"(Fatal Python error: init_import_site|Could not import runpy module).*?\nKeyboardInterrupt\n", re.DOTALL
)


def write_family(folder: Path) -> None:
    """The family file and its corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"Number {i} squared is {i * i}. The next one follows at once. " * 8 for i in range(300)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "tiny.toml").write_text(FAMILY)


def command(*way: str) -> list[str]:
    """The whole run."""
    return [sys.executable, "-m", "isoflop", "run", "tiny.toml", *way]


def below(pid: int) -> list[int]:
    """All processes that a process has started, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [one for child in children for one in (int(child), *below(int(child)))]


def kill_once(folder: Path, dice: random.Random, latest_seconds: float) -> str:
    """Starts the run, kills it at some instant, and waits until nothing of it is left; what was done."""
    way, number, who = dice.choice(WAYS), dice.choice(SIGNALS), dice.choice(WHO)
    instant = dice.uniform(0.0, latest_seconds)
    process = subprocess.Popen(command(*way), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(instant)
    started = below(process.pid)
    victims = {"command": [process.pid], "one": started[:1] or [process.pid], "all": [process.pid, *started]}[who]
    for victim in victims:
        try:
            os.kill(victim, number)
        except ProcessLookupError:
            continue
    said = process.communicate(timeout=LONGEST_SECONDS)[1]
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        time.sleep(0.02)
    told = f"{number.name} to {who} after {instant:.2f} s of {' '.join(way) or 'run'}: exit code {process.returncode}"
    assert "Traceback" not in INTERPRETER.sub("", said), f"{told}\n{said}"
    return told


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on what happened on the way."""
    run = folder / "runs" / "tiny"
    manifest = json.loads((run / "data" / "manifest.json").read_bytes())
    results = {path.parent.name: json.loads(path.read_bytes()) for path in sorted(run.glob("models/*/result.json"))}
    law = json.loads((run / "law.json").read_bytes())
    return {
        "shards": [shard["sha256"] for split in manifest["splits"].values() for shard in split["shards"]],
        "weights": {name: result["weights_sha256"] for name, result in results.items()},
        "losses": {name: result["nats_per_token"] for name, result in results.items()},
        "law": law["forms"],
        "steps": {
            path.parent.name: [json.loads(line)["step"] for line in path.read_text().splitlines()]
            for path in sorted(run.glob("models/*/metrics.jsonl"))
        },
        "released": sorted(path.name for path in (run / "release").iterdir()),
        "left": sorted(path.name for path in run.rglob("*") if path.name.endswith((".part", ".old", "lock", "store"))),
    }


def chain(folder: Path, seed: int, count: int, latest_seconds: float) -> tuple[dict[str, Any], list[str]]:
    """What a run ends with that was killed `count` times, each so long after its start at most, and how it was."""
    write_family(folder)
    dice = random.Random(seed)
    told = [kill_once(folder, dice, latest_seconds) for _ in range(count)]
    done = subprocess.run(command(), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, "\n".join([*told, done.stderr])
    return outcome(folder), told


def undisturbed(folder: Path) -> dict[str, Any]:
    """What a run ends with that nothing happened to."""
    write_family(folder)
    subprocess.run(command(), cwd=folder, check=True, capture_output=True)
    return outcome(folder)


def main(folder: Path, seed: int, count: int, each: int = 5) -> None:
    """`count` kills, so many on the way to each of the results.

    Each comes within a quarter of what an undisturbed run takes: the next one goes on from there.
    """
    began = time.monotonic()
    wanted = undisturbed(folder / "undisturbed")
    latest_seconds = (time.monotonic() - began) / 4
    lost = 0
    for i in range(-(-count // each)):
        found, told = chain(folder / str(i), seed + i, min(each, count - i * each), latest_seconds)
        lost += found != wanted
        print("\n".join(told), "same" if found == wanted else f"LOST: {found} instead of {wanted}", flush=True)
    print(f"{count} kills, {lost} results of another kind")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
