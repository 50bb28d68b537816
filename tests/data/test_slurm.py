"""The same command as an array of Slurm jobs on two nodes: a real controller and two real node daemons on loopback."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
pytestmark = [
    pytest.mark.skipif(
        not all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in PROGRAMS),
        reason="needs slurmctld, slurmd, slurm-client and munge",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd runs as root"),
]

CONF = """
ClusterName=isoflop
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=node0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Two nodes with one processor each; the environment in which sbatch speaks to them."""
    folder = tmp_path / "slurm"
    for name in ("state", "munge"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname().split(".")[0], ports=_free_ports(3), folder=folder))
    environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    munge = [f"--{name}={folder}/munge/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", "node0"],
        ["slurmd", "-D", "-N", "node1"],
    ]
    daemons = []
    try:
        for command in commands:
            out = open(folder / f"{len(daemons)}-{command[0]}.out", "w")  # noqa: SIM115
            daemons.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            time.sleep(0.5)
        _wait(
            lambda: _ask(environment, "sinfo", "-h", "-N", "-o", "%N %t").split() == ["node0", "idle", "node1", "idle"]
        )
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(20)


def test_an_array_over_two_nodes_makes_the_data_of_one_machine(
    cluster: dict[str, str], tmp_path: Path, pocket_lines: list[str]
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
        f"#!/bin/sh\nexport SLURM_CONF={cluster['SLURM_CONF']}\n"
        f"{sys.executable} {tmp_path}/job.py --part $SLURM_ARRAY_TASK_ID/2 --runs {tmp_path}/slurm-runs\n"
        'echo "on $SLURMD_NODENAME"\n'
    )
    _ask(cluster, "sbatch", "--array=0-1", "-o", f"{tmp_path}/job-%a.txt", str(script))
    _wait(lambda: not _ask(cluster, "squeue", "-h").strip(), seconds=60)
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


def _ask(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout


def _wait(done: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "the cluster does not answer"
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
