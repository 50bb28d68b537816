"""A family with a cluster, through the studio: submitted, paused, gone on with other systems, to the same bits."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from isoflop.config import load_family
from isoflop.pipeline import train_family
from isoflop.studio import jobs
from isoflop.studio.context import Studio
from isoflop.studio.places import Places
from tests.held import Hold
from tests.pipeline.conftest import Heard
from tests.pipeline.test_cluster_job import CLUSTER, FAMILY, PLACE
from tests.studio.conftest import send

# One model, whose job one node takes.
SMALL = FAMILY[: FAMILY.index("[[models]]")].replace("systems = 2", "systems = 1")
SMALL += FAMILY[FAMILY.rindex("[[models]]") :]


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clustered")
    texts = [f"Number {i} squared is {i * i}. The next one follows at once. " * 8 for i in range(300)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "tiny.toml").write_text(SMALL + CLUSTER)
    (folder / "here.toml").write_text(SMALL.replace('name = "tiny"', 'name = "here"'))
    return folder


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ASK_SECONDS", 0.0)


def until(studio: Studio, what: Callable[[], bool], seconds: float = 240) -> None:
    ends = time.monotonic() + seconds
    while not what():
        studio.queue.look()
        assert time.monotonic() < ends, [(run.name, run.state) for run in studio.catalogue.runs()]
        time.sleep(0.05)


def state(studio: Studio) -> str:
    run = studio.catalogue.run("tiny")
    assert run is not None
    return run.state


@pytest.mark.slow  # two jobs start launchers and their workers
@pytest.mark.timeout(600)
def test_a_job_is_paused_and_goes_on_with_other_systems_to_the_same_bits(
    studio: Studio,
    client: TestClient,
    places: Places,
    families: Path,
    slurm: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder, hold = places.run("tiny"), Hold(tmp_path)
    hold.at(PLACE)
    monkeypatch.setenv("PYTHONPATH", hold.environment["PYTHONPATH"])
    assert send(client, "/launch", family="tiny") == 303
    until(studio, lambda: hold.there)
    assert "is running" in client.get("/runs/tiny").text
    assert send(client, "/runs/tiny/tell/pause") == 303
    assert state(studio) == "paused"
    assert send(client, "/runs/tiny/tell/resume") == 303
    studio.queue.look()
    assert "job" in client.get("/runs/tiny").text  # the first one still saves: no second one beside it
    assert send(client, "/runs/tiny/tell/systems", systems="2") == 303
    until(studio, lambda: state(studio) == "done")
    logs = sorted(path for path in folder.logs.glob("job-*.txt") if "node" not in path.name)
    assert len(logs) == 2
    assert f"== {logs[1].name}" in client.get("/runs/tiny/log").text
    train_family(load_family(families / "here.toml"), places.run("here"), Heard())  # type: ignore[arg-type]
    ends = [json.loads(places.run(name).result("w16").read_text())["weights_sha256"] for name in ("tiny", "here")]
    assert ends[0] == ends[1]


def test_a_slurm_that_is_down_and_a_job_that_is_gone_are_told(
    studio: Studio, client: TestClient, places: Places, slurm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What they say then, at once: without a controller the real ones try for a minute.
    says = "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n"
    for name in ("sbatch", "squeue", "scancel"):
        (tmp_path / name).write_text(says)
        (tmp_path / name).chmod(0o755)
    down = f"{tmp_path}:{os.environ['PATH']}"
    slurm.ask("scontrol", "update", "PartitionName=all", "State=DOWN")  # jobs wait
    try:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", down)
            assert send(client, "/launch", family="tiny") == 303
            until(studio, lambda: state(studio) == "failed")
            assert "Unable to contact slurm controller" in client.get("/runs/tiny").text
        assert send(client, "/runs/tiny/tell/resume") == 303
        until(studio, lambda: state(studio) == "at the cluster")
        studio.queue.look()
        assert "is pending" in client.get("/runs/tiny").text
        with monkeypatch.context() as patch:
            patch.setenv("PATH", down)
            assert send(client, "/runs/tiny/tell/pause") == 500
            studio.queue.look()
            assert "Slurm says: slurm_load_jobs error: Unable to contact" in client.get("/runs/tiny").text
            assert state(studio) == "at the cluster"
        (job,) = slurm.ask("squeue", "-h", "-o", "%i").split()
        slurm.ask("scancel", job)
        until(studio, lambda: state(studio) == "failed")
        page = client.get("/runs/tiny").text
        assert f"job {job} has ended before all was trained" in page
        assert "Resume" in page
    finally:
        slurm.ask("scontrol", "update", "PartitionName=all", "State=UP")


def test_systems_that_fill_no_nodes_leave_the_job_alone(studio: Studio, client: TestClient, places: Places) -> None:
    assert send(client, "/launch", family="tiny") == 303
    path = places.ordered("tiny").family_file
    path.write_text(path.read_text().replace('partition = "all"', 'partition = "all"\nsystems_per_node = 2'))
    assert send(client, "/runs/tiny/tell/systems", systems="3") == 422
    run = studio.catalogue.run("tiny")
    assert run is not None
    assert run.order is not None
    assert run.order.systems == 1
