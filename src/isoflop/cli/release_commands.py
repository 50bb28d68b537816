"""`isoflop release`, `verify` and `import`: folders that others read, and those of others."""

from pathlib import Path
from typing import Annotated, Any

import typer

from isoflop.cli.options import Debug, Json, RunFolderPath, print_answer
from isoflop.errors import InputError

ModelFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with config.json and its weights.")]
To = Annotated[
    Path | None, typer.Option("--to", metavar="FOLDER", help="Write the model here, as config.json and safetensors.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="TYPE", help="With --to: fp32, bf16 or fp16; default as it was.")
]


def release(
    runs: RunFolderPath,
    push: Annotated[
        str | None, typer.Option("--push", metavar="OWNER", help="Send them to the Hugging Face hub, under this name.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: new repositories are private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --push: check all, say what would be sent, send nothing.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a Hugging Face folder for each model.

    With --push, send them to the hub.
    """
    from isoflop.cli import tables
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.release import release_run
    from isoflop.pipeline.verification import push_releases

    if push is None and (private or dry_run):
        raise InputError("--private and --dry-run go with --push OWNER")
    with Terminal(quiet=json) as terminal:
        folders = release_run(runs, terminal)
        pushed = None if push is None else push_releases(push, folders, terminal, private, dry_run)
    document: dict[str, Any] = {"releases": [str(path) for path in folders]}
    if pushed is None:
        print_answer(json, lambda: document, lambda: print(*folders, sep="\n"))
    else:
        print_answer(json, lambda: {**document, **pushed.to_json()}, lambda: tables.print_pushed(pushed))


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A release folder, a folder of them, or a run folder.")
    ],
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train the smallest model anew and compare its bits.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="With --retrain: where the corpus lies.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check every file of releases against its hash.

    With --retrain, the smallest model's bits too: it is trained anew.
    """
    from isoflop.cli import tables
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.verification import verify_release

    with Terminal(quiet=json) as terminal:
        verification = verify_release(folder, terminal, retrain, data)
    print_answer(json, verification.to_json, lambda: tables.print_verified(verification))
    verification.raise_for_faults()


def import_folder(
    model_folder: ModelFolder,
    to: To = None,
    dtype: Dtype = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a Hugging Face GPT-2 folder and say what it is.

    Every tensor is read. With --to, the model is written anew.
    """
    from isoflop.cli import tables
    from isoflop.pipeline.interchange import import_folder

    found = import_folder(model_folder, to, dtype)
    print_answer(json, found.to_json, lambda: tables.print_imported(found))
