"""A folder that is put in place whole survives a kill at any instant of it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.durable import write_folder


class Killed(BaseException):
    pass


def says(text: str) -> Callable[[Path], None]:
    def fill(part: Path) -> None:
        (part / "model").write_text(text)

    return fill


@pytest.mark.parametrize("instant", range(4))
def test_a_folder_killed_while_replaced_is_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: int
) -> None:
    folder = tmp_path / "release"
    write_folder(folder, says("old"))
    calls = 0
    replace = os.replace

    def kill_at(source: Path, target: Path) -> None:
        nonlocal calls
        if calls == instant:
            raise Killed
        replace(source, target)
        calls += 1
        if calls == instant:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill_at)
        try:
            write_folder(folder, says("new"))
            assert instant > 2
        except Killed:
            assert instant <= 2
    aside = folder if folder.exists() else tmp_path / "release.old"
    assert (aside / "model").read_text() in ("old", "new")

    def fails(part: Path) -> None:
        raise Killed

    with pytest.raises(Killed):
        write_folder(folder, fails)
    assert (folder / "model").read_text() in ("old", "new")
    write_folder(folder, says("newest"))
    assert (folder / "model").read_text() == "newest"
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
