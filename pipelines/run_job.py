"""``rag run``: a file of questions through a pipeline, as a job that a kill does not undo.

The questions are cut into parts of 64. A part is a pure function of its key: the rows, the settings
of the stages, the manifest of the collection, the hashes of the model files, the seed. Each is
written aside, synced and renamed, so that a re-run does only those that are missing; when all are
there they are joined, and the result takes its place by a rename. So the bytes are the same for any
number of workers and of kills.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rag.collection import Collection, Snapshot, folders, manifest
from rag.errors import InvalidInput, NotFound, RagError
from rag.jobs import PLAIN, Executor, Progress, Resources, TasksLost, executor, silent
from rag.pipeline import Pipeline
from rag.pipelines import run_key, run_parts
from rag.pipelines.run_lost import rescued
from rag.pipelines.run_rows import PART_ROWS, Form, parts, row_key
from rag.pipelines.run_work import Spec, Task, Worker, work
from rag.sources.settings import COMPRESSIONS

FORMAT = 1
"""Of a row of the result; a part of another format is made again."""


@dataclass(frozen=True)
class RunDone:
    """What a run did.

    Attributes:
        out: the result.
        rows: its rows, of which ``failed`` hold an error.
        failed: rows that a stage could not do.
        parts: parts of the job; ``made`` of them in this run, the others before.
        made: parts made in this run.
        manifest: the number of the manifest that was searched; None without a collection.
        unchanged: the result was there already, made from the same.
        failures: workers that ended before their time, a sentence each.
    """

    out: Path
    rows: int
    failed: int
    parts: int
    made: int
    manifest: int | None
    unchanged: bool = False
    failures: tuple[str, ...] = ()


def run_file(
    source: Path | str | Mapping[str, str],
    out: Path | str,
    pipeline: Pipeline,
    *,
    workers: int | None = None,
    ray: str | None = None,
    resources: Resources | None = None,
    seed: int = 0,
    documents: int = 10,
    texts: bool = False,
    form: Form = "answers",
    progress: Progress = silent,
) -> RunDone:
    """Run the questions of ``source`` through ``pipeline`` into ``out``.

    Run again after it was killed, it goes on with the parts that are missing, in the manifest that
    it began with. Beside the result lies ``OUT.job.json``, which says what it was made from; where
    that has not changed there is nothing to do.

    Args:
        source: a file of questions, as ``rag.pipelines.run_rows.parts`` reads it, or questions by
            their id.
        out: the result, one JSON object a row in the order of ``source``
            (``rag.pipelines.run_rows.lines_of``). One that is there is replaced at the end.
        pipeline: the pipeline; its collection is pinned to one manifest for the whole job.
        workers: processes that answer; each opens the pipeline once. Default: this one alone, and
            on Ray as many as there is room for.
        ray: answer on a Ray cluster: ``local``, or the address of one (docs/ray.md).
        resources: what a worker needs there; default: what the pipeline says.
        seed: what stages that draw lots begin with.
        documents: how many passages of each row are written.
        texts: write the texts of the passages too, as the readers saw them.
        form: of the lines: ``answers``; ``kilt``, predictions of KILT with ``documents`` pages as
            provenance (``rag.pipelines.run_rows.kilt_lines_of``), which hold no texts; or ``mined``
            (``rag.pipelines.run_rows.mined_lines_of``), what ``rag mine`` writes.
        progress: called with the rows that are done.

    Raises:
        BadRow: a line of ``source`` cannot be used; nothing has been done.
        StageFailed: a row failed and the pipeline's ``on_error`` is ``stop``; what was finished
            stays for the next run.
        NotFound: the manifest that the job began with is gone.
        Conflict: another job writes the same result.
    """
    source, out = source if isinstance(source, Mapping) else Path(source), Path(out)
    _check(source, out, documents)
    if form == "kilt" and texts:
        raise InvalidInput("texts: a prediction of KILT holds none; leave it out, or kilt")
    alone = ray is None and workers in (None, 1)
    if ray is not None:  # workers may run in another folder
        out = out.absolute()
    needs = resources or pipeline.resources or PLAIN
    run = executor(workers, ray, progress, {work.__name__: needs})
    spec = replace(spec_of(pipeline, seed, documents, texts, alone=alone), form=form)
    if ray is not None and spec.collection is not None:
        spec = replace(spec, collection=spec.collection.absolute())
    rows = [row_key(part) for part in parts(source)]
    folder = run_parts.folder_of(out)
    with closing(run), _told(folder), run_parts.held(folder):
        job, models = _job(spec, pipeline, folder)
        spec, checksum = _pinned(replace(spec, models=models), job, folder)
        keys = [run_key.part_key(job, checksum, row) for row in rows]
        state = {"key": folders.key_of(keys), "manifest": spec.manifest, "parts": len(keys)}
        before = _as_before(out, state)
        if before is not None:
            run_parts.remove(folder)
            return before
        there = run_parts.finished(folder, keys)
        missing = {r: key for r, key in zip(rows, keys, strict=True) if key not in there}
        tasks = _tasks(source, spec, folder, rows, missing)
        total = len(keys) * PART_ROWS
        progress("questions", len(there) * PART_ROWS, total)
        made = len(keys) - len(there)
        with _work(spec, pipeline, alone=alone) as do:
            for task, name in _done(run, do, tasks):
                there[task.key] = name
                progress("questions", len(there) * PART_ROWS, total)
        joined = _join(out, folder, [there[key] for key in keys], state, made)
        return replace(joined, failures=tuple(run.failures))


def _check(source: Path | Mapping[str, str], out: Path, documents: int) -> None:
    """Refuse a result that cannot be written, before any work."""
    if documents < 0:
        raise InvalidInput(f"documents: found {documents}, expected 0 or more")
    if not out.parent.is_dir():
        raise NotFound(f"{out}: there is no folder {out.parent}; make it first")
    if out.exists() and not out.is_file():
        raise InvalidInput(f"{out}: is no file; name a .jsonl file for the result")
    if out.suffix.lower() in COMPRESSIONS:
        raise InvalidInput(f"{out}: the result is not compressed; name it without {out.suffix}")
    if isinstance(source, Mapping):
        return
    same = out.samefile(source) if out.exists() and source.exists() else False
    if same or out.absolute() == source.absolute():
        raise InvalidInput(f"{out}: is the file of the questions; name another for the result")


def _done(
    run: Executor, do: Callable[[Task], str], tasks: Iterator[Task]
) -> Iterator[tuple[Task, str]]:
    """Parts with the names of their files; a question that ends its worker spoils no other."""
    try:
        yield from run.map(do, tasks)
    except TasksLost as error:
        yield from rescued(error, run)


def spec_of(pipeline: Pipeline, seed: int, documents: int, texts: bool, *, alone: bool) -> Spec:
    """What a worker needs; the manifest is pinned later."""
    number, given = None, pipeline.collection
    if isinstance(given, Snapshot):
        number, given = given.manifest.number, given.path
    if isinstance(given, Collection):
        given = given.path
    if given is not None and not isinstance(given, str | Path):
        raise InvalidInput(
            f"a job searches a collection in a folder, and that of pipeline {pipeline.name!r} is "
            f"{type(given).__name__}; use Pipeline.run"
        )
    settings = run_key.settings_of(pipeline.stages)
    for stage in () if alone else pipeline.stages:
        place = run_key.target(stage)
        if place.startswith("__main__:") or "<locals>" in place:
            raise InvalidInput(
                f"stage {stage.label!r} is defined in the running program ({place}), where other "
                "processes do not find it; put it in a module, or use one worker"
            )
    return Spec(
        tuple((place, values) for place, values in settings),
        None if given is None else Path(given),
        number,
        run_key.collections_of(pipeline.stages),
        pipeline.on_error,
        pipeline.name,
        seed,
        documents,
        texts,
        form="answers",
    )


def _job(spec: Spec, pipeline: Pipeline, folder: Path) -> tuple[str, dict[str, str]]:
    """The key of everything but the rows and the newest manifest; the hashes of model files."""
    from rag import __version__

    known = run_parts.read_json(folder / "models.json")
    before = dict(known)
    models = run_key.models_of(pipeline.stages, known)
    if known != before:
        run_parts.write_json(folder / "models.json", known, folder)
    place = None if spec.collection is None else str(spec.collection.resolve())
    options = [spec.on_error, spec.seed, spec.documents, spec.texts, spec.form]
    searched = [place, spec.manifest, spec.others]
    return folders.key_of(FORMAT, __version__, spec.stages, models, options, searched), models


def _pinned(spec: Spec, job: str, folder: Path) -> tuple[Spec, str | None]:
    """The manifest that the job began with, or else the newest, and its checksum."""
    if spec.collection is None:
        return spec, None
    path = folder / f"{job}.json"
    begun = run_parts.read_json(path)
    try:
        state = manifest.read(spec.collection, begun.get("manifest", spec.manifest))
    except NotFound as error:
        if begun:
            raise _gone(spec.collection, begun, folder) from error
        raise
    if not begun:
        entry = {"manifest": state.number, "checksum": state.checksum}
        run_parts.write_json(path, entry, folder)
    elif begun.get("checksum") != state.checksum:
        raise _gone(spec.collection, begun, folder)
    return spec.at(state.number), state.checksum


def _gone(collection: Path, begun: dict[str, Any], folder: Path) -> NotFound:
    return NotFound(
        f"{collection}: manifest {begun.get('manifest')} is gone, with which this job began; its "
        f"finished parts in {folder} do not fit another: remove that folder to begin anew"
    )


def _tasks(
    source: Path | Mapping[str, str],
    spec: Spec,
    folder: Path,
    rows: Sequence[str],
    missing: Mapping[str, str],
) -> Iterator[Task]:
    """The parts that are missing (hash of the rows to key); the questions are read once more.

    Raises:
        InvalidInput: they are not those that the keys were made of.
    """
    if not missing:
        return
    changed = InvalidInput(f"{source}: was changed while the job ran; run the command again")
    for wanted, part in zip_longest(rows, parts(source, check=False)):
        if part is None or row_key(part) != wanted:
            raise changed
        if wanted in missing:
            yield Task(spec, folder, missing[wanted], part)


@contextmanager
def _work(spec: Spec, pipeline: Pipeline, *, alone: bool) -> Iterator[Callable[[Task], str]]:
    """What does a part: in this process with its stages, or in any other."""
    if not alone:
        yield work
        return
    worker = Worker(spec, pipeline.stages)
    try:
        yield worker
    finally:
        worker.close()


def _side(out: Path) -> Path:
    return out.with_name(f"{out.name}.job.json")


def _as_before(out: Path, state: dict[str, Any]) -> RunDone | None:
    """What is there, if it was made from the same and is whole."""
    entry = run_parts.read_json(_side(out))
    if entry.get("key") != state["key"] or not out.is_file():
        return None
    if out.stat().st_size != entry.get("bytes") or folders.file_hash(out) != entry.get("sha256"):
        return None
    counts = entry["rows"], entry["failed"], state["parts"]
    return RunDone(out, *counts, made=0, manifest=entry["manifest"], unchanged=True)


def _join(
    out: Path, folder: Path, names: Sequence[str], state: dict[str, Any], made: int
) -> RunDone:
    joined = run_parts.Joined(folder, names)
    run_parts.write(out, joined, folder)
    facts = {"bytes": joined.bytes, "sha256": joined.sha256}
    facts |= {"rows": joined.rows, "failed": joined.failed}
    run_parts.write_json(_side(out), {**state, **facts}, folder)
    run_parts.remove(folder)
    return RunDone(out, joined.rows, joined.failed, len(names), made, state["manifest"])


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say of an error in the midst what is kept, and what to do."""
    try:
        yield
    except RagError as error:
        if folder.is_dir():
            error.add_note(f"what was finished stays in {folder}; the same command goes on there")
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        advice = "what was finished is kept; make room and run the same command again"
        what = f"{os.strerror(error.errno)}; {advice}"
        raise OSError(error.errno, what, str(folder)) from error
