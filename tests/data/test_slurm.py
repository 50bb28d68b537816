"""The same command as an array of Slurm jobs on two nodes: a real controller and two real node daemons on loopback."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def test_an_array_over_two_nodes_makes_the_data_of_one_machine(
    slurm: Any, tmp_path: Path, pocket_lines: list[str]
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(4):
        (corpus / f"{number}.jsonl").write_text("".join(pocket_lines[number * 30 : number * 30 + 30]))
    family = tmp_path / "family.toml"
    family.write_text(
        'name = "f"\n[data]\nsource = "corpus"\ntokenizer = { kind = "gpt2" }\ncontext_length = 64\n'
        "held_out_fraction = 0.1\n[sizes]\ntarget_params = [4_000_000]\n"
    )
    # Portions of 256 MiB would leave the second node nothing to do.
    command = f"""
import sys
from isoflop.data import chunks
chunks.PORTION_BYTES = 20_000
from isoflop.cli import main
sys.argv = ["isoflop", "data", {str(family)!r}, *sys.argv[1:]]
main()
"""
    script = tmp_path / "job.sh"
    (tmp_path / "job.py").write_text(command)
    script.write_text(
        f"#!/bin/sh\nexport SLURM_CONF={slurm.environment['SLURM_CONF']}\n"
        f"{sys.executable} {tmp_path}/job.py --part $SLURM_ARRAY_TASK_ID/2 --runs {tmp_path}/slurm-runs\n"
        'echo "on $SLURMD_NODENAME"\n'
    )
    assert slurm.ask("sbatch", "--parsable", "--array=0-1", "-o", f"{tmp_path}/job-%a.txt", str(script))
    slurm.wait(lambda: not slurm.ask("squeue", "-h"), "both parts")
    said = [(tmp_path / f"job-{part}.txt").read_text() for part in (0, 1)]
    assert {line for text in said for line in text.splitlines() if line.startswith("on ")} == {
        "on node0",
        "on node1",
    }, said
    assert all(f"part {part} of 2 is done" in text for part, text in enumerate(said)), said

    def alone(runs: str) -> "subprocess.CompletedProcess[str]":
        arguments = [sys.executable, str(tmp_path / "job.py"), "--json", "--runs", str(tmp_path / runs)]
        return subprocess.run(arguments, capture_output=True, text=True, check=True)

    assert json.loads(alone("slurm-runs").stdout) == json.loads(alone("other-runs").stdout)
