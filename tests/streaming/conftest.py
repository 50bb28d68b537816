from pathlib import Path

import pytest

from isoflop.model import weights_sha256
from tests.streaming.runs import RESIDENT, losses, prepare_data, run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_data(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def wanted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[float]]:
    """Weights and losses of the resident run."""
    folder = tmp_path_factory.mktemp("resident")
    return weights_sha256(run(data, folder, RESIDENT).weights), losses(folder)


@pytest.fixture(params=[False, True], ids=["whole", "cut"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is; or with shards and windows so small that pieces have several, which cut rows of the embeddings."""
    if request.param:
        monkeypatch.setattr("isoflop.model.weights.SHARD", 8192)
        monkeypatch.setattr("isoflop.streaming.store.WINDOW", 4096)
        monkeypatch.setattr("isoflop.train.optimizer.CHUNK", 2048)
