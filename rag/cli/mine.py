"""The command that finds hard negatives for training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rag.cli.ask import OfCollection, WithPipeline, loaded
from rag.cli.jobs import OnRay, Workers, tell_failures
from rag.cli.output import JsonFlag, plural, print_json, progress


def mine(
    data: Annotated[
        Path,
        typer.Argument(
            help="A folder with questions and judgements, as rag eval takes it.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="The result, a .jsonl file.", show_default=False),
    ],
    collection: OfCollection = None,
    pipeline: WithPipeline = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="Which judgements; default: train, else test.", show_default=False
        ),
    ] = None,
    depth: Annotated[
        int, typer.Option("--depth", min=1, help="The most passages looked at, of each question.")
    ] = 200,
    scores: Annotated[
        str | None,
        typer.Option(
            "--scores",
            help="A cross-encoder that scores positives and negatives, for distillation.",
            show_default=False,
        ),
    ] = None,
    workers: Workers = None,
    ray: OnRay = None,
    as_json: JsonFlag = False,
) -> None:
    """Mine hard negatives: what a pipeline finds that does not answer; resumed after a kill.

    \b
    Examples:
      rag mine scifact -c wiki --out negatives.jsonl
      rag mine nq -c wiki -p dense --split train --out negatives.jsonl --workers 4
      rag mine nq -c wiki --depth 30 --scores cross-encoder/ms-marco-MiniLM-L6-v2 --out scored.jsonl
    """  # noqa: D301
    from rag.sources.tasks import is_task, task_folder
    from rag.training.mine import mine as mined

    folder = task_folder(str(data)) if is_task(data) else data
    with loaded(pipeline, collection, top_k=depth) as opened, progress() as tell:
        done = mined(
            folder,
            out,
            opened,
            split=split,
            depth=depth,
            scores=scores,
            workers=workers,
            ray=ray,
            progress=tell,
        )
    tell_failures(done.failures)
    if done.failed:
        print(
            f"warning: {plural(done.failed, 'question')} of {done.rows:,} could not be mined; "
            f'"error" in {done.out} says why, and recipes pass them over',
            file=sys.stderr,
        )
    if as_json:
        print_json({**vars(done), "out": str(done.out)})
        return
    print(f"{done.out}: {plural(done.rows, 'question')}, manifest {done.manifest}")
    if done.unchanged:
        print("  nothing to do: it was made from the same before")
