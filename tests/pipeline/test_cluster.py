"""`[cluster]` in the family file: the job that train submits, once."""

from pathlib import Path
from typing import Any

import pytest

from isoflop.config import Family, load_family
from isoflop.errors import FamilyError, InputError
from isoflop.pipeline.cluster import (
    _names,
    goes_to_a_cluster,
    job_script,
    refuse_changes_of_a_job,
    refuse_untrained,
    submit_family,
)
from isoflop.pipeline.folder import RunFolder

FAMILY = """
name = "f"
systems = 4
[data]
source = "."
tokenizer = { kind = "gpt2" }
context_length = 64
[sizes]
target_params = [4_000_000]
[cluster]
kind = "slurm"
systems_per_node = 2
partition = "all"
sbatch = ["--hold"]
"""


@pytest.fixture
def family(tmp_path: Path) -> Family:
    (tmp_path / "f.toml").write_text(FAMILY)
    return load_family(tmp_path / "f.toml")


def test_the_job_runs_the_worker_on_full_nodes(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = job_script(family, Path("f.toml"), RunFolder(Path("runs/f")))
    assert "#SBATCH --nodes=2" in text
    assert "--nnodes=2 --nproc-per-node=2" in text
    assert f"-m isoflop worker {tmp_path}/f.toml --execution resident --runs {tmp_path}/runs" in text
    assert f"{tmp_path}/runs/f/logs/job-%j" in text
    assert not (tmp_path / "runs").exists()


def test_systems_that_fill_no_nodes_are_refused(family: Family, tmp_path: Path) -> None:
    three = family.model_copy(update={"systems": 3})
    with pytest.raises(FamilyError, match="systems = 3"):
        job_script(three, tmp_path / "f.toml", RunFolder(tmp_path / "runs" / "f"))


@pytest.mark.parametrize("limit", ["2", "1:30", "0:01:59", "0-00:02"])
def test_a_limit_that_leaves_no_time_to_work_is_refused(tmp_path: Path, limit: str) -> None:
    file = tmp_path / "short.toml"
    file.write_text(FAMILY + f'time_limit = "{limit}"\n')
    with pytest.raises(InputError, match="is no longer than save_seconds = 120"):
        load_family(file)
    for longer in ("3", "2:01", "1-0", "0"):
        file.write_text(FAMILY + f'time_limit = "{longer}"\n')
        load_family(file)


def test_run_does_not_train_on_a_login_node(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    folder = RunFolder(tmp_path / "runs" / "f")
    with pytest.raises(InputError, match="isoflop train submits"):
        refuse_untrained(family, tmp_path / "f.toml", folder)
    refuse_untrained(family.model_copy(update={"cluster": None}), tmp_path / "f.toml", folder)
    for name in _names(family):
        folder.result(name).parent.mkdir(parents=True)
        folder.result(name).touch()
    refuse_untrained(family, tmp_path / "f.toml", folder)


def test_a_model_that_is_not_there_is_refused_by_a_dry_run(family: Family, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model nosuch: no such model"):
        job_script(family, tmp_path / "f.toml", RunFolder(tmp_path / "runs" / "f"), "nosuch")


def test_a_job_of_the_cluster_submits_no_other(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert goes_to_a_cluster(family)
    assert not goes_to_a_cluster(family.model_copy(update={"cluster": None}))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not goes_to_a_cluster(family)


def test_without_slurm_the_command_says_where_it_belongs(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="login node"):
        submit_family(family, tmp_path / "f.toml", RunFolder(tmp_path / "runs" / "f"))
    assert not (tmp_path / "runs").exists()


def test_a_family_is_submitted_once_and_again_only_when_its_job_is_gone(
    family: Family, tmp_path: Path, slurm: Any
) -> None:
    folder = RunFolder(tmp_path / "runs" / "f")
    path = tmp_path / "f.toml"
    first = submit_family(family, path, folder)
    assert (first.fresh, first.state) == (True, "PENDING")
    assert slurm.state(first.job) == "PENDING"
    again = submit_family(family, path, folder)
    assert (again.job, again.fresh) == (first.job, False)
    slurm.ask("scancel", first.job)
    other = submit_family(family, path, folder)
    assert other.fresh
    assert other.job != first.job


@pytest.mark.parametrize("state", [None, "PENDING", "RUNNING", "COMPLETING"])
def test_settings_do_not_change_under_a_job_at_work(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str | None
) -> None:
    folder = RunFolder(tmp_path / "runs" / "f")
    refuse_changes_of_a_job(family, folder)  # none was ever submitted
    folder.logs.mkdir(parents=True)
    (folder.logs / "job.json").write_text('{"job": "17"}')
    monkeypatch.setattr("isoflop.systems.slurm.state_of", {"17": state}.__getitem__)
    if state in (None, "PENDING"):
        refuse_changes_of_a_job(family, folder)
    else:
        with pytest.raises(InputError, match=f"job 17 is {state.lower()} .*scancel 17"):
            refuse_changes_of_a_job(family, folder)


def test_what_slurm_says_against_a_job_is_told(family: Family, tmp_path: Path, slurm: Any) -> None:
    assert family.cluster is not None
    elsewhere = family.model_copy(update={"cluster": family.cluster.model_copy(update={"partition": "nowhere"})})
    with pytest.raises(InputError, match="Invalid partition"):
        submit_family(elsewhere, tmp_path / "f.toml", RunFolder(tmp_path / "runs" / "f"))
    assert not (tmp_path / "runs").exists()
