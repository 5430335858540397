"""The work of ``rag run``: one part of the questions to one file, in any process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rag.batch import Batch
from rag.collection import Snapshot, manifest
from rag.errors import Conflict, InvalidInput
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
        models: the hash of each model file, by name.
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
    models: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise where collection, stages or models are not here what they were for the job.

        Raises:
            NotFound: the manifest is not here.
            InvalidInput: a model file differs.
        """
        if self.collection is not None:
            manifest.read(self.collection, self.manifest)
        here = run_key.models_of([_stage(*stage) for stage in self.stages], {})
        for name, wanted in self.models.items():
            if here.get(name) != wanted:
                found = "another file" if name in here else "none"
                raise InvalidInput(f"model {name}: found {found} here; copy the job's, or share it")

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

    @property
    def shared(self) -> Path:
        """The folder that workers must see (``rag.jobs``)."""
        return self.folder

    @property
    def label(self) -> str:
        """Which questions, by their ids."""
        ids = self.part.ids
        return f"question {ids[0]!r}" if len(ids) == 1 else f"questions {ids[0]!r} to {ids[-1]!r}"

    def check(self) -> None:
        """Raise where this machine lacks the collection, a stage or a model."""
        self.spec.check()


class Worker:
    """Does parts of one job with one opened pipeline."""

    def __init__(self, spec: Spec, stages: Sequence[Stage] | None = None) -> None:
        """Open the snapshot of ``spec``; ``stages`` are made from its settings by default."""
        snapshot = None
        if spec.collection is not None:
            snapshot = Snapshot(spec.collection, manifest.read(spec.collection, spec.manifest))
        made = [_stage(*stage) for stage in spec.stages] if stages is None else stages
        self._pipeline = Pipeline(made, snapshot, on_error=spec.on_error, name=spec.name)
        self._spec, self._fresh = spec, True

    def __call__(self, task: Task) -> str:
        """Run a part and keep it; the name of its file."""
        after = self.answer(task.part)
        return run_parts.publish(task.folder, task.key, b"".join(lines(self._spec, after)))

    def answer(self, part: Part) -> Batch:
        """Run the questions of a part."""
        after = self._pipeline.run(Batch.of(part.questions, part.ids), seed=self._spec.seed)
        if self._fresh:
            # Stages opened the newest manifests; unless these are newer now, they were the same.
            _check_others(self._spec, self._pipeline.stages)
            self._fresh = False
        return after

    def close(self) -> None:
        """Give back models and snapshot."""
        self._pipeline.close()


def work(task: Task) -> str:
    """Do a part in a worker process, which opens the pipeline of its job once."""
    return worker(task.spec)(task)


def worker(spec: Spec) -> Worker:
    """The one of this process, opened once."""
    if not _workers:
        _workers.append(Worker(spec))
    return _workers[0]


def lines(spec: Spec, batch: Batch) -> Iterator[bytes]:
    """What is written of a batch."""
    if spec.form == "kilt":
        return kilt_lines_of(batch, documents=spec.documents)
    if spec.form == "mined":
        return mined_lines_of(batch)
    return lines_of(batch, documents=spec.documents, texts=spec.texts)


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
