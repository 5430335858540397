"""The command that answers a file of questions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.cli.ask import OfCollection, WithPipeline, loaded
from rag.cli.jobs import OnRay, Workers, tell_failures
from rag.cli.output import JsonFlag, plural, print_json, progress

if TYPE_CHECKING:
    from rag.pipelines.run_job import RunDone


def run(
    questions: Annotated[
        Path,
        typer.Argument(
            help='A .jsonl file: {"question": ...} a line, with an "id"; or one of BEIR or KILT.',
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(help="The result, a .jsonl file in the same order.", show_default=False),
    ],
    collection: OfCollection = None,
    pipeline: WithPipeline = None,
    workers: Workers = None,
    ray: OnRay = None,
    documents: Annotated[
        int, typer.Option("--documents", min=0, help="Passages written of each row.")
    ] = 10,
    texts: Annotated[
        bool, typer.Option("--texts", help="Write the texts of the passages too.")
    ] = False,
    kilt: Annotated[
        bool, typer.Option("--kilt", help="Write predictions of KILT, with pages as provenance.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="For stages that draw lots.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Answer a file of questions; a job that was killed goes on where it stopped.

    \b
    Examples:
      rag run questions.jsonl answers.jsonl -c wiki -p bm25-extract
      rag run queries.jsonl.gz answers.jsonl -c wiki -p mine.yaml --workers 4
      rag run queries.jsonl answers.jsonl -c /shared/wiki -p mine.yaml --ray 10.0.0.5:6379
      rag run nq-dev-kilt.jsonl predictions.jsonl -c wiki -p seal --kilt
    """  # noqa: D301
    from rag.pipelines.run_job import run_file

    form = "kilt" if kilt else "answers"
    options: dict[str, Any] = {"workers": workers, "ray": ray, "seed": seed, "form": form}
    with loaded(pipeline, collection) as opened, progress() as tell:
        done = run_file(
            questions, out, opened, documents=documents, texts=texts, progress=tell, **options
        )
    _report(done, as_json)


def _report(done: RunDone, as_json: bool) -> None:
    tell_failures(done.failures)
    if done.failed:
        which = f"{plural(done.failed, 'row')} of {done.rows:,} failed"
        why = f'"error" in {done.out} says why; remove that file to have all done again'
        print(f"warning: {which}; {why}", file=sys.stderr)
    if as_json:
        print_json({**vars(done), "out": str(done.out)})
        return
    searched = "" if done.manifest is None else f", manifest {done.manifest}"
    print(f"{done.out}: {plural(done.rows, 'row')}{searched}")
    if done.unchanged:
        print("  nothing to do: it was made from the same before")
    elif done.made < done.parts:
        print(f"  {plural(done.made, 'part')} of {done.parts:,} done now, the others before")
    if not done.rows:
        print("  the file holds no questions: was that the right one?")
