"""The commands that write and check collections."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rag.cli.jobs import OnRay, Workers, tell_failures
from rag.cli.kinds import asked_kinds
from rag.cli.output import JsonFlag, plural, print_json, progress
from rag.errors import InvalidInput

if TYPE_CHECKING:
    from rag.collection import Done


Dir = Annotated[Path, typer.Argument(help="The collection's folder.", show_default=False)]
SegmentRows = Annotated[
    int, typer.Option("--segment-rows", min=1, help="The most passages in a segment.")
]
Bad = Annotated[
    Literal["stop", "skip"] | None,
    typer.Option(
        "--on-bad",
        help="Stop at a bad row, or skip it into a file. Default: what the file says, or stop.",
        show_default=False,
    ),
]


def index(
    source: Annotated[
        str,
        typer.Argument(
            help="A .jsonl, .csv, .tsv or .parquet file, a BEIR folder, a folder of text files, "
            "an index YAML, a task such as beir/scifact, or a collection.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The collection's folder.", show_default=False),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index",
            help="An index to build, by its type, or NAME=TYPE; may be repeated. Default: lexical.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="For --index ngrams: the model whose tokenizer is used; a name at Hugging Face, "
            "a folder, a .gguf file, or smollm2.",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            help="For an index of vectors (dense, sparse): a folder, a name at Hugging Face, or "
            "minilm. One for all of them, or one for each in their order.",
            show_default=False,
        ),
    ] = None,
    factory: Annotated[
        list[str] | None,
        typer.Option(
            "--factory",
            help="For --index dense: FAISS's name of an index, such as HNSW32 or IVF1024,PQ48x4fs. "
            "Default: Flat, which is exact. One for all, or one for each.",
            show_default=False,
        ),
    ] = None,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain",
            help="Have a factory that learns (IVF, PQ) learn anew from all passages that are "
            "there; nothing is encoded.",
        ),
    ] = False,
    on_bad: Bad = None,
    segment_rows: SegmentRows = 1_000_000,
    workers: Workers = None,
    ray: OnRay = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a collection equal a source, or add an index to a collection.

    Parts that have not changed are kept; a job that was killed goes on where it stopped.

    \b
    Examples:
      rag index examples/xquad-en --out wiki
      rag index wiki.yaml --out wiki --workers 4
      rag index wiki.yaml --out /shared/wiki --ray 10.0.0.5:6379
      rag index wiki --index lexical
      rag index wiki --index ngrams --model smollm2
      rag index wiki --index dense --encoder minilm
      rag index wiki --index fast=dense --encoder minilm --factory IVF1024,PQ48x4fs
      rag index wiki --index dense --encoder minilm --index sparse --encoder ./svdr-msmarco
    """  # noqa: D301
    from rag.collection import Collection

    options = {"model": [model] if model else None, "encoder": encoder, "factory": factory}
    given = {key: value for key, value in options.items() if value}
    if out is None:
        _add_index(source, index, given, {"workers": workers, "ray": ray}, as_json, retrain)
        return
    if retrain:
        raise InvalidInput(
            f"--retrain: with a source, indexes learn anew where it has changed; without --out, "
            f"'rag index {out} --index NAME --retrain' has an index that is there learn anew"
        )
    settings = _source(source, index, given, on_bad)
    with progress() as tell:
        _, done = Collection.build(
            path=out,
            segment_rows=segment_rows,
            workers=workers,
            ray=ray,
            progress=tell,
            **settings,
        )
    _report(out, done, as_json)


def _add_index(
    source: str,
    index: list[str] | None,
    given: dict[str, list[str]],
    on: dict[str, Any],
    as_json: bool,
    retrain: bool,
) -> None:
    from rag.collection import Collection

    path = Path(source)
    if not (path / "manifest").is_dir():
        raise InvalidInput(f"where shall it go? add '--out DIR': rag index {source} --out DIR")
    if not index:
        raise InvalidInput(f"which index? add '--index NAME': rag index {source} --index lexical")
    kinds = asked_kinds(index, given)
    with progress() as tell:
        opened = Collection.open(path)
        done = opened.add_index(kinds, retrain=retrain, progress=tell, **on)
    _report(path, done, as_json)


def _source(
    source: str, index: list[str] | None, given: dict[str, list[str]], on_bad: str | None
) -> dict[str, Any]:
    """The arguments of ``Collection.build`` for a path: those of an index YAML, or its own."""
    from rag.sources import detect

    if not source.endswith((".yaml", ".yml")):
        found, settings = detect(source), dict[str, Any]()
        if index or given:
            settings["indexes"] = asked_kinds(index or [], given)
    else:
        from rag.pipelines.load import load_index

        for key, values in given.items():
            raise InvalidInput(f"--{key} {values[0]}: {source} says which; change '{key}:' there")
        file = load_index(source)
        chosen = {**file.indexes}
        for name in index or ():
            if name not in chosen:
                known = ", ".join(chosen)
                raise InvalidInput(f"{source}: has no index {name!r}; it has: {known}")
        found = file.source
        settings = {
            "fields": file.fields,
            "split": file.split,
            "indexes": {n: kind for n, kind in chosen.items() if not index or n in index} or None,
            "pipeline": file.pipeline,
            "resources": file.resources,
        }
    if on_bad is not None:
        found = found.model_copy(update={"on_bad": on_bad})
    return {"source": found, **settings}


def add(
    collection: Dir,
    source: Annotated[
        str,
        typer.Argument(
            help="A .jsonl, .csv, .tsv or .parquet file, a BEIR folder or one of text files.",
            show_default=False,
        ),
    ],
    on_existing: Annotated[
        Literal["fail", "skip", "replace"],
        typer.Option("--on-existing", help="For a document that is there already."),
    ] = "fail",
    on_bad: Bad = None,
    segment_rows: SegmentRows = 1_000_000,
    workers: Workers = None,
    ray: OnRay = None,
    as_json: JsonFlag = False,
) -> None:
    """Add documents to a collection, in one commit.

    \b
    Example:
      rag add wiki more.jsonl --on-existing replace
    """  # noqa: D301
    from rag.collection import Collection

    opened = Collection.open(collection)
    with progress() as tell:
        done = opened.add(
            source,
            on_existing=on_existing,
            on_bad=on_bad or "stop",
            segment_rows=segment_rows,
            workers=workers,
            ray=ray,
            progress=tell,
        )
    _report(collection, done, as_json)


def delete(
    collection: Dir,
    ids: Annotated[
        list[str], typer.Argument(help="Ids of passages or documents.", show_default=False)
    ],
    as_json: JsonFlag = False,
) -> None:
    """Hide passages from search, by their ids or those of their documents.

    \b
    Example:
      rag delete wiki p12 p13
    """  # noqa: D301
    from rag.collection import Collection

    _report(collection, Collection.open(collection).delete(ids), as_json)


def compact(
    collection: Dir,
    segment_rows: SegmentRows = 1_000_000,
    workers: Workers = None,
    ray: OnRay = None,
    as_json: JsonFlag = False,
) -> None:
    """Merge small segments and drop deleted passages.

    \b
    Example:
      rag compact wiki
    """  # noqa: D301
    from rag.collection import Collection

    opened = Collection.open(collection)
    with progress() as tell:
        done = opened.compact(segment_rows=segment_rows, workers=workers, ray=ray, progress=tell)
    _report(collection, done, as_json)


def clean(
    collection: Dir,
    keep: Annotated[
        int, typer.Option("--keep", min=1, help="How many of the newest manifests stay.")
    ] = 1,
    older_than: Annotated[
        float,
        typer.Option("--older-than", min=0, help="Seconds; whatever is younger stays."),
    ] = 86_400,
    as_json: JsonFlag = False,
) -> None:
    """Remove what the newest manifests do not name: it frees the disk after a compaction.

    What a running process still reads is kept.

    \b
    Example:
      rag clean wiki --keep 2
    """  # noqa: D301
    from rag.collection import Collection

    done = Collection.open(collection).clean(keep, older_than)
    if as_json:
        print_json({"collection": str(collection), **asdict(done)})
        return
    removed = [
        plural(count, what)
        for count, what in (
            (done.manifests, "manifest"),
            (done.folders, "folder"),
            (done.files, "other file"),
        )
        if count
    ]
    if removed:
        print(f"{collection}: removed {', '.join(removed)}; {done.bytes:,} bytes")
    else:
        print(f"{collection}: nothing to remove (what is younger than {older_than:,.0f} s stays)")
    for number in done.read:
        print(f"  manifest {number} stays: somebody is reading by it")


def _report(path: Path, done: Done, as_json: bool) -> None:
    state = done.manifest
    tell_failures(done.failures)
    if as_json:
        print_json(
            {
                "collection": str(path),
                "manifest": state.number,
                "passages": state.live,
                "segments": len(state.segments),
                "indexes": sorted(state.indexes),
                "added": done.added,
                "deleted": done.deleted,
                "skipped": done.skipped,
                "bad_rows": done.bad,
                "bad_file": str(done.bad_file) if done.bad_file is not None else None,
                "unchanged": done.unchanged,
                "failures": list(done.failures),
            }
        )
        return
    parts = [plural(state.live, "passage"), plural(len(state.segments), "segment")]
    parts += [f"index {name}" for name in state.indexes]
    print(f"{path}: {', '.join(parts)}; manifest {state.number}")
    if done.unchanged:
        print("  nothing to do: it was so already")
    if not state.segments:
        print("  it holds no documents: was that the right source?")
    for count, what in ((done.added, "in"), (done.deleted, "out")):
        if count:
            print(f"  {plural(count, 'passage')} {what}")
    if done.skipped:
        print(f"  {plural(done.skipped, 'passage')} left out: their documents are there already")
    if done.bad:
        print(f"  {plural(done.bad, 'bad row')} skipped: see {done.bad_file}")


def info(
    collection: Dir,
    manifest: Annotated[
        int | None,
        typer.Option("--manifest", help="An older state, by number.", show_default=False),
    ] = None,
    recall: Annotated[
        bool,
        typer.Option(
            "--recall",
            help="How many of the 10 and the 100 nearest passages each dense index finds.",
        ),
    ] = False,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries",
            help="With --recall: questions to search with, as rag run reads them. Default: 200 "
            "passages, whose vectors are there.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what a collection holds.

    \b
    Examples:
      rag info wiki
      rag info wiki --recall --queries questions.jsonl
    """  # noqa: D301
    from rag.cli.facts import print_facts, recalls
    from rag.collection import Collection
    from rag.collection.info import describe

    if queries is not None and not recall:
        raise InvalidInput("--queries: says what --recall searches with; add --recall")
    # Not Collection.open for an older one: the newest may be damaged.
    opened = Collection.open(collection) if manifest is None else Collection(collection)
    facts = describe(opened, manifest)
    if recall:
        for name, found in recalls(opened.snapshot(manifest), queries).items():
            facts["indexes"][name]["recall"] = found
    if as_json:
        print_json(facts)
    else:
        print_facts(collection, facts)


def verify(collection: Dir, as_json: JsonFlag = False) -> None:
    """Read every byte of a collection; exit 1 naming each file that is damaged.

    \b
    Example:
      rag verify wiki
    """  # noqa: D301
    from rag.collection import Collection

    path = Path(collection)
    # Not Collection.open: a damaged manifest is to be named along with all other damage.
    if not (path / "manifest").is_dir():
        Collection.open(path)
    with progress() as tell:
        found = Collection(path).verify(tell)
    if as_json:
        print_json({"collection": str(path), "damage": [str(error) for error in found]})
    else:
        for error in found:
            print(error)
        if not found:
            print(f"{path}: every byte is as it was written")
    if found:
        raise typer.Exit(1)
