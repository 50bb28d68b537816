"""Slurm: the script of a job that trains on its nodes, saves and goes back to the queue; sbatch and squeue.

A job starts one launcher of PyTorch's on each node, which starts that node's workers; all meet at the first node.
SIGTERM to a launcher reaches its workers, which save at the next step and end; then the launcher ends.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isoflop.errors import InputError, WorkError
from isoflop.outcome import LAUNCHER, OUTCOME

# How long a launcher waits for its workers to save before it kills them.
SHUTDOWN_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
# Node failures and killed workers that a job survives without a word to Slurm.
RESTARTS = 3
# Between two looks of the job at its launchers, and how long they have after a worker has told how all ended.
LOOK_SECONDS, REST_SECONDS = 2, 60


@dataclass(frozen=True)
class Job:
    """What a job is asked for with, and what each of its workers runs.

    Attributes:
        worker: what follows the launcher's own options: `-m isoflop worker FAMILY.toml --runs RUNS`.
        save_seconds: how long before the wall-time limit the workers are told to save.
        options: further options of sbatch.
    """

    name: str
    nodes: int
    systems_per_node: int
    worker: tuple[str, ...]
    python: str
    logs: Path
    partition: str | None = None
    account: str | None = None
    time_limit: str | None = None
    save_seconds: int = 120
    options: tuple[str, ...] = ()


def script(job: Job) -> str:
    """The batch script of `job`: same job, same text."""
    logs, folder = shlex.quote(str(job.logs)), shlex.quote(str(job.logs.parent))
    return f"""#!/bin/bash
{_directives(job)}
# One launcher on each node, with {job.systems_per_node} of the workers. When its time is nearly over, or another job
# preempts it, the job saves and goes back to the queue; started again, it goes on from there.

address_of() {{ # of a node, as Slurm reaches it
    scontrol --oneliner show node "$1" | grep -o ' NodeAddr=[^ ]*' | cut -d= -f2
}}

launch() {{ # on each node; its workers tell in one file what no restart would mend, and end with their launcher
    export {OUTCOME}="$OUTCOMES/first.json" {LAUNCHER}=$$
    exec {shlex.quote(job.python)} -m isoflop.systems.elastic \\
        --nnodes={job.nodes} --nproc-per-node={job.systems_per_node} --max-restarts={RESTARTS} \\
        --rdzv-backend=c10d --rdzv-endpoint="$FIRST_NODE:$((10000 + SLURM_JOB_ID % 20000))" \\
        --rdzv-id="$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}" \\
        --rdzv-conf=is_host=$((SLURM_NODEID == 0)),keep_alive_max_attempt=1000000 \\
        --local-addr="$(address_of "$SLURMD_NODENAME")" \\
        {shlex.join(job.worker)}
}}

kept() {{ # what a start has added to: without it, another one would add nothing either
    cd {folder} && {{
        cat models/*/checkpoints/LATEST
        ls models/*/result.json
        find data -type f -printf '%p %s\\n' | sort
    }} 2>/dev/null | cksum
}}

back_to_the_queue() {{
    if [ "$1" != preempted ] && [ "$(kept)" = "$before" ]; then
        echo "$(date '+%F %T') $1, and this start has kept nothing new: job $SLURM_JOB_ID does not go back to the queue"
        return
    fi
    echo "$(date '+%F %T') $1: job $SLURM_JOB_ID goes back to the queue"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60
}}

export -f address_of launch
FIRST_NODE=$(address_of "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)")
OUTCOMES={logs}/job-$SLURM_JOB_ID.outcomes
rm -rf "$OUTCOMES" && mkdir -p "$OUTCOMES"
export FIRST_NODE OUTCOMES {SHUTDOWN_VARIABLE}={job.save_seconds} PYTHONUNBUFFERED=1

echo "$(date '+%F %T') job $SLURM_JOB_ID, start ${{SLURM_RESTART_COUNT:-0}}, on $SLURM_JOB_NODELIST"
before=$(kept)
# A launcher that ends badly has given up or was killed, and takes the others with it: workers that were told to save
# have all saved before the first of them ends.
srun --kill-on-bad-exit=1 --cpu-bind=none --open-mode=append \\
    --output={logs}/job-%j-node%n.txt bash -c launch &
launchers=$!
nearly_over=
# Not through srun: told to end, it kills its tasks at once.
trap 'nearly_over=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1
told=0
while kill -0 $launchers 2>/dev/null; do
    sleep {LOOK_SECONDS} &
    wait $! # a signal ends it
    [ -e "$OUTCOMES/first.json" ] && told=$((told + {LOOK_SECONDS}))
    [ $told -ge {REST_SECONDS} ] && scancel --signal=KILL "$SLURM_JOB_ID.0" # a worker is stuck
done
wait $launchers
code=$?
outcome=

if [ -e "$OUTCOMES/first.json" ]; then
    outcome=1
    cat "$OUTCOMES/first.json" && echo
    code=$(grep -o '"code": *[0-9]*' "$OUTCOMES/first.json" | grep -o '[0-9]*$')
fi
rm -rf "$OUTCOMES"
if [ $code -ne 0 ] && [ -n "$nearly_over" ]; then
    back_to_the_queue "the time limit is near"
elif [ $code -ne 0 ] && scontrol show job "$SLURM_JOB_ID" | grep -q ' PreemptTime=[0-9]'; then
    back_to_the_queue "preempted"
elif [ $code -eq 143 ] && scontrol show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING'; then
    # Not by scancel. After a lost node, Slurm may repeat to this start what the one before was told.
    back_to_the_queue "its workers were told to end"
elif [ $code -ne 0 ] && [ -z "$outcome" ]; then
    back_to_the_queue "a launcher is lost, or its workers were again and again"
fi
echo "$(date '+%F %T') job $SLURM_JOB_ID ended with exit code $code"
exit $code
"""


def _directives(job: Job) -> str:
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        *([f"--partition={job.partition}"] if job.partition else []),
        *([f"--account={job.account}"] if job.account else []),
        *([f"--time={job.time_limit}"] if job.time_limit else []),
        f"--signal=B:USR1@{job.save_seconds}",
        "--requeue",
        "--open-mode=append",
        f"--output={shlex.quote(str(job.logs))}/job-%j.txt",
        # Workers take the cores there are: whole nodes, unless the user counts cores.
        *([] if any(one.startswith("--cpus-per-task") for one in job.options) else ["--exclusive"]),
        *map(_quoted, job.options),
    ]
    return "\n".join(f"#SBATCH {option}" for option in options)


def _quoted(option: str) -> str:
    """An option of sbatch as its script takes it: a value with blanks in quotes."""
    name, equals, value = option.partition("=")
    return option if "'" in value or '"' in value else f"{name}{equals}{shlex.quote(value) if value else ''}"


def submit(text: str) -> str:
    """Submits the script; the job's number.

    Raises:
        InputError: there is no sbatch here, or it refuses the script.
    """
    if shutil.which("sbatch") is None:
        raise InputError(
            "cluster.kind = 'slurm': sbatch is not here; use the cluster's login node (--dry-run shows the script)"
        )
    done = _run(["sbatch", "--parsable"], text)
    if done.returncode != 0:
        raise InputError(f"cluster: sbatch refused the job: {_last_line(done.stderr)}; --dry-run shows the script")
    return done.stdout.strip().partition(";")[0]


def state_of(job: str) -> str | None:
    """What Slurm says of a job that waits or runs, as in "PENDING"; None once it has ended.

    Raises:
        InputError: there is no squeue here.
        WorkError: Slurm does not answer: nothing is known of the job.
    """
    done = _run(["squeue", "--noheader", f"--jobs={job}", "--format=%T"])
    _check(done, "Invalid job id")
    return done.stdout.strip().partition("\n")[0] or None


def cancel(job: str) -> None:
    """Tells a job to save and end; it does not come back. Nothing happens to one that has ended.

    Raises:
        InputError: there is no scancel here.
        WorkError: Slurm does not answer, or does not let this user.
    """
    _check(_run(["scancel", job]), "Invalid job id", "already completing or completed")


def _check(done: "subprocess.CompletedProcess[str]", *harmless: str) -> None:
    if done.returncode == 127:
        raise InputError(f"cluster.kind = 'slurm': {_last_line(done.stderr)}; use the cluster's login node")
    if done.returncode != 0 and not any(words in done.stderr for words in harmless):
        raise WorkError(f"{done.args[0]}: Slurm says: {_last_line(done.stderr)}; try again later")


def within_a_job() -> bool:
    """Whether this process was started by a job."""
    return "SLURM_JOB_ID" in os.environ


def _run(command: Sequence[str], text: str = "") -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]} is not here")
    except subprocess.TimeoutExpired:
        raise WorkError(f"{command[0]}: Slurm has not answered for 60 s; try again later") from None


def _last_line(text: str) -> str:
    line = (text.strip().splitlines() or ["no reason given"])[-1]
    return re.sub("^s[a-z]+: (error: )?", "", line)
