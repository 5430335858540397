"""The work of ``rag run``: one part of the questions to one file, in any process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rag.batch import Batch
from rag.collection import Snapshot, manifest
from rag.errors import Conflict
from rag.pipeline import OnError, Pipeline
from rag.pipelines import run_key, run_parts
from rag.pipelines.run_rows import Form, Part, kilt_lines_of, lines_of, mined_lines_of
from rag.stage import Stage


@dataclass(frozen=True)
class Spec:
    """A job as it travels to workers: settings and paths, nothing that is open.

    Attributes:
        stages: the class (``module:name``) and the settings (JSON values) of each stage.
        collection: the collection's folder.
        manifest: the number of the manifest that all parts search.
        others: the collections that stages name themselves, with number and checksum of the
            manifests that the job began with.
        on_error: as in ``Pipeline``.
        name: the pipeline's.
        seed: of each part.
        documents: passages that are written of each row.
        texts: whether their texts are.
        form: of the lines.
    """

    stages: tuple[tuple[str, Any], ...]
    collection: Path | None
    manifest: int | None
    others: Mapping[str, Any]
    on_error: OnError
    name: str
    seed: int
    documents: int
    texts: bool
    form: Form

    def at(self, number: int) -> Spec:
        """The same job, pinned to a manifest."""
        return replace(self, manifest=number)


@dataclass(frozen=True)
class Task:
    """One part: its questions, its key, and the folder that its file goes to."""

    spec: Spec
    folder: Path
    key: str
    part: Part


class Worker:
    """Does parts of one job with one opened pipeline."""

    def __init__(self, spec: Spec, stages: Sequence[Stage] | None = None) -> None:
        """Open the snapshot of ``spec``; ``stages`` are made from its settings by default."""
        snapshot = None
        if spec.collection is not None:
            snapshot = Snapshot(spec.collection, manifest.read(spec.collection, spec.manifest))
        made = [_stage(*stage) for stage in spec.stages] if stages is None else stages
        self._pipeline = Pipeline(made, snapshot, on_error=spec.on_error, name=spec.name)
        self._fresh = True

    def __call__(self, task: Task) -> str:
        """Run a part and keep it; the name of its file."""
        spec = task.spec
        batch = Batch.of(task.part.questions, task.part.ids)
        after = self._pipeline.run(batch, seed=spec.seed)
        if self._fresh:
            # Stages opened the newest manifests; unless these are newer now, they were the same.
            _check_others(spec, self._pipeline.stages)
            self._fresh = False
        if spec.form == "kilt":
            lines = kilt_lines_of(after, documents=spec.documents)
        elif spec.form == "mined":
            lines = mined_lines_of(after)
        else:
            lines = lines_of(after, documents=spec.documents, texts=spec.texts)
        return run_parts.publish(task.folder, task.key, b"".join(lines))

    def close(self) -> None:
        """Give back models and snapshot."""
        self._pipeline.close()


def work(task: Task) -> str:
    """Do a part in a worker process, which opens the pipeline of its job once."""
    if not _workers:
        _workers.append(Worker(task.spec))
    return _workers[0](task)


_workers: list[Worker] = []
"""The one of this process, which serves one job."""


def _stage(place: str, settings: Any) -> Stage:
    module, _, name = place.partition(":")
    cls: Any = import_module(module)
    for part in name.split("."):
        cls = getattr(cls, part)
    made: Stage = cls.model_validate_json(json.dumps(settings))
    return made


def _check_others(spec: Spec, stages: Sequence[Stage]) -> None:
    for name, now in run_key.collections_of(stages).items():
        if now != spec.others.get(name):
            raise Conflict(
                f"{name}: the collection, which a stage names, was changed while the job opened "
                "it; run the command again"
            )
