"""The command that measures a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.cli.ask import OfCollection, WithPipeline, loaded
from rag.cli.jobs import OnRay, Workers
from rag.cli.output import JsonFlag, console, print_json, progress
from rag.cli.spread import OfShards

if TYPE_CHECKING:
    from rag.eval import Report


def evaluate(
    datasets: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATASET...",
            help="A BEIR folder with queries and judgements, a task such as loco/qmsum, or all "
            "tasks of loco or beir.",
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
    """Measure a pipeline on a dataset's questions, or on several and the mean over them.

    Of several datasets each has a collection of its own name in the folder that -c names.

    \b
    Examples:
      rag eval examples/xquad-en -c wiki -p bm25-extract
      rag eval examples/xquad-en -c wiki -p bm25 -m nDCG@10 --save-run bm25.trec --json
      rag eval examples/xquad-en -c wiki -p bm25-qa --workers 4
      rag eval examples/xquad-en -c wiki --ray local --shards 4
      rag eval loco -c loco-m2 -p dense -m nDCG@10
    """  # noqa: D301
    from rag import eval as evaluation
    from rag.errors import InvalidInput, NotFound
    from rag.sources.tasks import tasks_of

    if save_run is not None and not save_run.parent.is_dir():
        raise NotFound(f"{save_run}: there is no folder {save_run.parent}; make it first")
    names: list[Any] = []
    for name in datasets:
        every: list[Any] = tasks_of(name)
        names += every or [name]
    if len(names) == 1:
        report = _measured(names[0], collection, pipeline, measure, split, workers, ray, shards)
        if save_run is not None:
            evaluation.write_run(save_run, report.run, tag=report.pipeline)
        print_json(report.to_json()) if as_json else console().print(report.table())
        return
    if save_run is not None:
        raise InvalidInput("--save-run: a run is of one dataset; evaluate them one by one for it")
    if collection is None:
        raise NotFound(
            f"{len(names)} datasets need -c DIR, a folder that holds a collection of each: "
            f"DIR/{Path(names[0]).name}, ..."
        )
    places = [collection / Path(name).name for name in names]
    if absent := [place for place in places if not place.is_dir()]:
        raise NotFound(
            f"{absent[0]}: there is no such collection ({len(absent)} of {len(places)} are not "
            f"there); make it: rag index {names[places.index(absent[0])]} --out {absent[0]}"
        )
    both = zip(names, places, strict=True)
    several = evaluation.Several(
        [_measured(n, place, pipeline, measure, split, workers, ray, shards) for n, place in both]
    )
    print_json(several.to_json()) if as_json else console().print(several.table())


def _measured(
    dataset: Path | str,
    collection: Path | None,
    pipeline: str | None,
    measure: list[str] | None,
    split: str | None,
    workers: int | None,
    ray: str | None,
    shards: int | None,
) -> Report:
    """The report of one dataset."""
    from rag import eval as evaluation
    from rag.cli.spread import spread
    from rag.errors import InvalidInput

    found = loaded(pipeline, collection)
    if shards is not None:
        # The questions are answered here then, and what is searched lies at the cluster.
        if workers is not None:
            raise InvalidInput(
                "--workers and --shards: workers search a whole collection each; give one of both"
            )
        found, ray = spread(found, ray, shards, None), None
    with found as opened, progress() as tell:
        return evaluation.evaluate(
            evaluation.load(dataset, split=split),
            opened,
            measures=measure,
            workers=workers,
            ray=ray,
            progress=tell,
        )
