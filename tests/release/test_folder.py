"""The release folder: whole or not at all, everything in it hashed, made again only when it must be."""

import hashlib
import json
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from isoflop.errors import Interrupted, WorkError
from isoflop.release import Card, release_model, released

Make = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "release" / "tiny-a"


@pytest.fixture
def release(folder: Path, weights: dict[str, Tensor], tokenizer_json: Path, card: Card) -> Make:
    """Releases to `folder` the model of the fixtures, with what is given in their place."""

    def make(card: Card = card, weights: dict[str, Tensor] = weights, tokenizer_json: Path = tokenizer_json) -> None:
        release_model(folder, weights, tokenizer_json, card)

    return make


def test_the_manifest_lists_every_file_with_its_hash(release: Make, folder: Path, card: Card) -> None:
    release()

    manifest = json.loads((folder / "MANIFEST.json").read_text())
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "MANIFEST.json"}
    assert manifest["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    jsons = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "data_manifest.json"}
    assert contents.keys() == {"README.md", "LICENSE", "model.safetensors", *jsons}
    assert manifest["weights_sha256"] == card.weights_sha256


def test_the_manifest_says_what_repeats_the_run(release: Make, folder: Path, card: Card) -> None:
    release()

    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert manifest["plan"].items() >= json.loads(json.dumps(card.plan.fingerprint())).items()
    assert manifest["data"]["tokenizer_sha256"] == manifest["files"]["tokenizer.json"]["sha256"]
    assert manifest["data"]["manifest_sha256"] == manifest["files"]["data_manifest.json"]["sha256"]
    assert json.loads((folder / "data_manifest.json").read_text()) == card.data.model_dump(mode="json")
    assert (manifest["measured"]["threads"], manifest["measured"]["torch"]) == (2, "2.15.0")
    assert manifest["released_with"]["torch"] == version("torch")
    page = (Path(__file__).parents[2] / "docs" / "run-directory.md").read_text(encoding="utf-8")
    keys = page.split("MANIFEST.json says")[1]
    assert all(f"`{key}`" in keys for key in manifest)


def test_the_data_manifest_and_the_tokenizer_are_those_of_the_run_to_the_byte(
    release: Make, folder: Path, tokenizer_json: Path
) -> None:
    release()

    assert (folder / "tokenizer.json").read_bytes() == tokenizer_json.read_bytes()
    assert (folder / "data_manifest.json").read_bytes() == tokenizer_json.with_name("manifest.json").read_bytes()


def test_the_tensors_are_fp32_under_their_names_and_the_head_is_not_stored_twice(
    release: Make, folder: Path, weights: dict[str, Tensor]
) -> None:
    release()

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(weights)
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in weights.items())
        assert {file.get_tensor(name).dtype for name in weights} == {torch.float32}


def test_everybody_who_may_read_the_card_may_read_the_weights(release: Make, folder: Path) -> None:
    release()

    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_tensors_that_are_views_of_one_buffer_are_stored_whole(
    release: Make, folder: Path, card: Card, weights: dict[str, Tensor]
) -> None:
    buffer = torch.cat([tensor.flatten() for tensor in weights.values()])
    parts = torch.split(buffer, [tensor.numel() for tensor in weights.values()])
    views = {name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=True)}
    views["transformer.wpe.weight"] = views["transformer.wpe.weight"].T.contiguous().T

    release(weights=views)

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in weights.items())


def test_the_licence_is_the_one_of_the_repository_and_whole(release: Make, folder: Path) -> None:
    release()

    text = (folder / "LICENSE").read_bytes()
    assert text == (Path(__file__).parents[2] / "LICENSE").read_bytes()
    # The hash of https://www.apache.org/licenses/LICENSE-2.0.txt
    assert hashlib.sha256(text).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_same_model_gives_the_same_bytes(release: Make, folder: Path) -> None:
    release()
    first = contents_of(folder)
    release()

    assert contents_of(folder) == first


def test_a_release_that_is_there_is_known_at_once(release: Make, folder: Path, card: Card) -> None:
    assert not released(folder, card)
    release()

    begin = time.process_time()
    assert released(folder, card)
    assert time.process_time() - begin < 0.1


def test_a_release_of_something_else_is_not_taken_for_this_one(release: Make, folder: Path, card: Card) -> None:
    release()

    assert not released(folder, replace(card, weights_sha256="0" * 64))
    assert not released(folder, replace(card, foretold=None))
    assert not released(folder, replace(card, description="Another text."))
    assert not released(folder, replace(card, data=card.data.model_copy(update={"licence": "other"})))
    assert not released(folder, replace(card, plan=replace(card.plan, peak_lr=1e-5)))


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "LICENSE"])
def test_a_file_gone_cut_changed_or_added_makes_it_no_release(
    release: Make, folder: Path, card: Card, name: str
) -> None:
    release()
    whole = (folder / name).read_bytes()

    (folder / name).unlink()
    assert not released(folder, card)
    (folder / name).write_bytes(whole[:-1])
    assert not released(folder, card)
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not released(folder, card)
    (folder / name).write_bytes(whole)
    assert released(folder, card)
    manifest = (folder / "MANIFEST.json").read_text()
    (folder / "MANIFEST.json").write_text(manifest.replace(f'"bytes": {len(whole)}', f'"bytes": {len(whole) + 1}'))
    assert not released(folder, card)
    (folder / "MANIFEST.json").write_text(manifest)
    (folder / "stray").write_bytes(b"")
    assert not released(folder, card)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"files": 3}', "[" * 100_000, "\udcff"])
def test_a_damaged_manifest_makes_it_no_release(release: Make, folder: Path, card: Card, content: str) -> None:
    release()
    (folder / "MANIFEST.json").write_text(content, encoding="utf-8", errors="surrogateescape")

    assert not released(folder, card)


@pytest.mark.parametrize("name", ["config.json", "README.md", "model.safetensors", "MANIFEST.json"])
def test_a_release_interrupted_at_any_file_leaves_the_former_one(
    release: Make, folder: Path, card: Card, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    release()
    former = contents_of(folder)
    chmod, write_text = Path.chmod, Path.write_text

    def stop(self: Path) -> None:
        if self.name == name:
            raise Interrupted(signal.SIGTERM)

    def interrupted_write(self: Path, *args: str, **options: str) -> int:
        stop(self)
        return write_text(self, *args, **options)

    def interrupted_chmod(self: Path, mode: int) -> None:
        stop(self)
        chmod(self, mode)

    monkeypatch.setattr(Path, "write_text", interrupted_write)
    monkeypatch.setattr(Path, "chmod", interrupted_chmod)
    with pytest.raises(Interrupted):
        release(replace(card, description="Newer."))

    assert contents_of(folder) == former
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_full_disk_leaves_the_former_release_and_says_so(release: Make, folder: Path, card: Card) -> None:
    release()
    former = contents_of(folder)

    said = r"tiny-a: cannot write \(File too large\); nothing that was there is lost"
    with largest_file(40_000), pytest.raises(WorkError, match=said):
        release(replace(card, description="Newer."))

    assert contents_of(folder) == former
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_weights_of_another_hash_are_not_released(release: Make, folder: Path, weights: dict[str, Tensor]) -> None:
    name = "transformer.h.0.attn.c_proj.weight"

    with pytest.raises(WorkError, match="weights_sha256 differs"):
        release(weights={**weights, name: weights[name].T})

    assert not folder.exists()


def test_a_missing_tensor_is_named(release: Make, folder: Path, weights: dict[str, Tensor]) -> None:
    del weights["transformer.h.1.mlp.c_fc.bias"]

    with pytest.raises(WorkError, match=r"transformer\.h\.1\.mlp\.c_fc\.bias .*planned \(64,\), given none"):
        release(weights=weights)


def test_a_stored_head_is_named(release: Make, folder: Path, weights: dict[str, Tensor]) -> None:
    with pytest.raises(WorkError, match=r"lm_head\.weight .*planned none, given \(300, 16\)"):
        release(weights={**weights, "lm_head.weight": weights["transformer.wte.weight"]})


def test_a_tokenizer_changed_since_the_training_is_refused(
    release: Make, folder: Path, tokenizer_json: Path, tmp_path: Path
) -> None:
    other = tmp_path / "tokenizer.json"
    other.write_bytes(tokenizer_json.read_bytes() + b" ")

    with pytest.raises(WorkError, match=r"tokenizer\.json: not the tokenizer that the model was trained with"):
        release(tokenizer_json=other)
    with pytest.raises(WorkError, match=r"nowhere\.json: cannot read it"):
        release(tokenizer_json=tmp_path / "nowhere.json")
    assert not folder.exists()


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """No file can grow beyond `n_bytes`, as if the disk were full there."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, handler)
