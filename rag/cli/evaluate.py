"""The command that measures a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rag.cli.ask import OfCollection, WithPipeline, loaded
from rag.cli.jobs import OnRay, Workers
from rag.cli.output import JsonFlag, console, print_json, progress
from rag.cli.spread import OfShards


def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(
            help="A BEIR folder with queries and judgements, or a task such as loco/qmsum.",
            show_default=False,
        ),
    ],
    collection: OfCollection = None,
    pipeline: WithPipeline = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            "-m",
            help="By ir-measures' name (nDCG@10, R@100, RR@10), EM or F1; may be repeated.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Which judgements: test, dev, train.", show_default=False),
    ] = None,
    save_run: Annotated[
        Path | None,
        typer.Option("--save-run", help="Write the run in TREC's format.", show_default=False),
    ] = None,
    workers: Workers = None,
    ray: OnRay = None,
    shards: OfShards = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a pipeline on a dataset's questions.

    \b
    Examples:
      rag eval examples/xquad-en -c wiki -p bm25-extract
      rag eval examples/xquad-en -c wiki -p bm25 -m nDCG@10 --save-run bm25.trec --json
      rag eval examples/xquad-en -c wiki -p bm25-qa --workers 4
      rag eval examples/xquad-en -c wiki --ray local --shards 4
    """  # noqa: D301
    from rag import eval as evaluation
    from rag.cli.spread import spread
    from rag.errors import InvalidInput, NotFound

    if save_run is not None and not save_run.parent.is_dir():
        raise NotFound(f"{save_run}: there is no folder {save_run.parent}; make it first")
    found = loaded(pipeline, collection)
    if shards is not None:
        # The questions are answered here then, and what is searched lies at the cluster.
        if workers is not None:
            raise InvalidInput(
                "--workers and --shards: workers search a whole collection each; give one of both"
            )
        found, ray = spread(found, ray, shards, None), None
    with found as opened, progress() as tell:
        report = evaluation.evaluate(
            evaluation.load(dataset, split=split),
            opened,
            measures=measure,
            workers=workers,
            ray=ray,
            progress=tell,
        )
    if save_run is not None:
        evaluation.write_run(save_run, report.run, tag=report.pipeline)
    if as_json:
        print_json(report.to_json())
    else:
        console().print(report.table())
