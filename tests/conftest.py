"""A real Slurm on loopback for tests that submit jobs: munged, slurmctld and two slurmd, up in seconds, then gone.

And what holds for every test: an example of Hypothesis may take as long as a busy machine needs.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("isoflop", deadline=None)
settings.load_profile("isoflop")

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
SEARCHED = f"{os.environ['PATH']}:/usr/sbin"
NODES = ("node0", "node1")
# A job on `all` gives way to one on `urgent`: it is warned by SIGTERM, has two minutes, and goes back to the queue.
# cred_expire also is what a job that went back waits until it starts again: 120 s by default.
CONF = """
ClusterName=isoflop
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=2,sched_interval=2
MpiDefault=none
ReturnToService=2
KillWait=120
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=node0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10 PreemptMode=off
"""


@dataclass(frozen=True)
class Slurm:
    """Two nodes of one processor each; `environment` is the one in which Slurm's commands speak to them."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str) -> str:
        """What a command printed; "" if it failed."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() if done.returncode == 0 else ""

    def wait(self, done: Callable[[], bool], what: str, seconds: float = 200) -> None:
        """Returns when `done` is true; fails the test, with the controller's last words, when that takes too long."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                queue = self.ask("squeue", "--format=%i %j %T %r")
                log = (self.folder / "slurmctld.log").read_text().splitlines()[-15:]
                pytest.fail("\n".join([f"waited {seconds:.0f} s for {what}", queue, *log]))
            time.sleep(0.2)

    def state(self, job: str) -> str:
        """RUNNING, PENDING, COMPLETED, ...; "" for a job that Slurm no longer knows."""
        shown = self.ask("scontrol", "--oneliner", "show", "job", job)
        return shown.partition("JobState=")[2].partition(" ")[0]


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    missing = [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]
    if missing:
        pytest.skip(f"no real Slurm here: {', '.join(missing)} missing (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("no real Slurm here: slurmd must run as root")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    (folder / "munge").mkdir(mode=0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname().split(".")[0], ports=_free_ports(3), folder=folder))
    slurm = Slurm(folder, {**os.environ, "SLURM_CONF": str(conf), "PATH": SEARCHED})
    munge = [f"--{name}={folder}/munge/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-D", "-i"],
        *(["slurmd", "-D", "-N", node] for node in NODES),
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with open(folder / f"{len(daemons)}-{command[0]}.out", "w") as out:
                daemons.append(subprocess.Popen(command, env=slurm.environment, stdout=out, stderr=out))
            if command[0] == "munged":
                slurm.wait((folder / "munge" / "socket").exists, "munged")
        idle = [word for node in NODES for word in (node, "idle")]
        slurm.wait(lambda: slurm.ask("sinfo", "-hN", "-p", "all", "-o", "%N %t").split() == idle, "idle nodes")
        yield slurm
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(60)
            except subprocess.TimeoutExpired:  # the others are to end all the same
                daemon.kill()
                daemon.wait()


@pytest.fixture
def slurm(slurm_cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The cluster with nothing in its queue, before the test and after it; this process can reach it too."""
    for key in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(key, slurm_cluster.environment[key])
    yield slurm_cluster
    slurm_cluster.ask("scancel", "--signal=KILL", "--full", "--user=root")
    slurm_cluster.ask("scancel", "--user=root")
    slurm_cluster.wait(lambda: not slurm_cluster.ask("squeue", "-h"), "an empty queue")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
