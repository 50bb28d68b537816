"""The journal of a store on disk: which step counts, and what its update is made from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.durable import write_text
from isoflop.errors import InputError
from isoflop.streaming.pages import DamagedError

FORMAT = 2


@dataclass(frozen=True)
class Entry:
    """The step that counts: all shards are as after it, or are made so from its gradient, its norm and its rate."""

    fingerprint: dict[str, Any]
    position: dict[str, Any]
    norm: float
    lr: float
    step: int


class Journal:
    """The file at `path`. It speaks of the model whose settings and data the `fingerprint` describes."""

    def __init__(self, path: Path, fingerprint: dict[str, Any]) -> None:
        self._path, self._fingerprint = path, fingerprint

    def write(self, position: Mapping[str, Any], norm: float, lr: float, step: int) -> None:
        """From now on this step counts; on the disk when this returns.

        Raises:
            WorkError: the disk is full; the entry before still counts.
        """
        entry = {"norm": norm.hex(), "lr": lr.hex(), "step": step, "position": dict(position)}
        document = {"format": FORMAT, "fingerprint": self._fingerprint, **entry}
        text = json.dumps(document, sort_keys=True)
        write_text(self._path, json.dumps({"entry": document, "sha256": _hash(text)}, indent=2) + "\n")

    @staticmethod
    def read(path: Path) -> Entry | None:
        """What the journal says; None if there is none.

        Raises:
            DamagedError: it is not what was written, or cannot be read.
            InputError: another version wrote it.
        """
        try:
            found = json.loads(path.read_bytes())
            entry = found["entry"]
            if found["sha256"] != _hash(json.dumps(entry, sort_keys=True)):
                raise ValueError("its hash does not hold")
            if entry["format"] != FORMAT:
                raise InputError(
                    f"{path}: a journal of format {entry['format']}, this version reads {FORMAT}; go on with the "
                    "version that wrote it, or use another --runs folder"
                )
            return Entry(
                fingerprint=entry["fingerprint"],
                position=entry["position"],
                norm=float.fromhex(entry["norm"]),
                lr=float.fromhex(entry["lr"]),
                step=entry["step"],
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedError(path, f"cannot read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(path, str(error)) from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
