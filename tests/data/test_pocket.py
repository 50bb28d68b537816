"""The pocket family's data never change: every earlier run of it depends on these bits."""

from pathlib import Path

from isoflop.config import load_family
from isoflop.data import prepare

FAMILY = Path(__file__).parents[2] / "families" / "pocket.toml"


def test_tokenizer_and_shards_of_the_pocket_family_are_what_they_were(tmp_path: Path) -> None:
    manifest = prepare(load_family(FAMILY).data, tmp_path / "data", lambda line: None)
    assert manifest.tokenizer.sha256 == "ad84b8141eceed4e1db78df8750028ca000b0c3339bbf50337774a723c504418"
    [train], [held_out] = manifest.splits.train.shards, manifest.splits.held_out.shards
    assert train.sha256 == "5b19cc15344eebab7570f984c380f128d7c9d90e5e57a067888625f3268b1fbf"
    assert held_out.sha256 == "e7342079de94de7af9ec9a67b988f1fb88ca5c6d59f6beaff74ab5538b3ae576"
