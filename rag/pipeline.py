"""A list of stages that questions run through."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from rag.errors import InvalidInput, RagError, StageFailed
from rag.stage import Columns, Context, Run, Stage, Step, reason

if TYPE_CHECKING:
    from rag import ranking
    from rag.batch import Batch, Citation, Hit
    from rag.collection import Collection, Snapshot

OnError = Literal["keep", "stop"]


@dataclass(frozen=True)
class Answer:
    """What ``ask`` returns; a field that no stage of the pipeline writes is empty or None."""

    text: str | None
    citations: tuple[Citation, ...]
    confidence: float | None
    documents: tuple[Hit, ...]
    route: str | None


class Pipeline:
    """Stages in order over one snapshot of a collection.

    Args:
        stages: the stages; the columns that each needs are checked here, before any model.
        collection: a ``Collection``, a snapshot of one, or its folder. Needed as soon as a stage
            searches; it is opened at the first question and pinned until ``close``.
        on_error: ``keep`` fills a failed row's ``error`` and goes on; ``stop`` raises.
        name: what tables call the pipeline.

    Raises:
        MissingColumn: a stage reads a column that no earlier stage writes.
        InvalidInput: there is no stage, or something is not a stage.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        collection: Collection | ranking.Snapshot | Path | str | None = None,
        *,
        on_error: OnError = "keep",
        name: str = "pipeline",
    ) -> None:
        """Check the stages and the columns that they pass on."""
        if not stages:
            raise InvalidInput("a pipeline needs at least one stage")
        for number, stage in enumerate(stages, 1):
            if not isinstance(stage, Stage):
                raise InvalidInput(f"stage {number} is {stage!r}, not a Stage (forgot the call?)")
        self.stages = tuple(stages)
        self.collection = collection
        self.on_error = on_error
        self.name = name
        self.columns = Columns()
        for stage in self.stages:
            self.columns = stage.columns(self.columns.at(stage.label))
        self._lock = threading.Lock()
        self._context: Context | None = None
        self._steps: list[tuple[str, Step]] = []

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        collection: Collection | ranking.Snapshot | Path | str | None = None,
    ) -> Pipeline:
        """The pipeline of a YAML file, or a shipped one by its bare name (``bm25-extract``).

        ``collection`` goes before the one that the file names.

        Raises:
            InvalidFile: the file has errors; all of them are listed with their positions.
            NotFound: there is no such file or shipped pipeline.
        """
        load = import_module("rag.pipelines.load").load_pipeline
        pipeline: Pipeline = load(source, collection=collection)
        return pipeline

    def __repr__(self) -> str:
        """The stages in order."""
        return f"<Pipeline {self.name}: {' > '.join(stage.label for stage in self.stages)}>"

    def __enter__(self) -> Self:
        """Self; leaving the block closes the pipeline."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pipeline."""
        self.close()

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that the stages search."""
        return self._opened()[0].snapshot()

    def ask(self, question: str) -> Answer:
        """Answer one question.

        Raises:
            StageFailed: a stage could not do the row; the message says which and why.
        """
        from rag.batch import Batch

        row = self.run(Batch.of([question])).row(0)
        if row["error"] is not None:
            error = row["error"]
            raise StageFailed(f"stage {error['stage']!r}: {error['message']}")
        return Answer(
            row.get("answer"),
            row.get("citations") or (),
            row.get("confidence"),
            tuple(row.get("documents") or ()),
            row.get("route"),
        )

    def run(
        self,
        questions: Sequence[str] | Batch,
        *,
        seed: int = 0,
        progress: Callable[[str, int], None] | None = None,
    ) -> Batch:
        """Run all questions through the stages; rows keep their order.

        A row that fails in a stage skips the later ones; its ``error`` names the stage. A row
        that comes with an ``error`` skips them all.
        ``progress(stage, rows)`` is called as each stage starts.
        """
        from rag.batch import Batch

        batch = questions if isinstance(questions, Batch) else Batch.of(questions)
        _, steps = self._opened()
        active, parked = _sound(batch)
        for label, step in steps:
            if not len(active):
                break
            if progress is not None:
                progress(label, len(active))
            run = Run(seed=seed)
            active = _called(label, step, active, run)
            if run.failed:
                if self.on_error == "stop":
                    row, error = min(run.failed.items(), key=lambda item: item[0])
                    raise StageFailed(
                        f"stage {label!r}: question {active.ids[row]!r}: {reason(error)}"
                    ) from error
                failed, active = _parted(active, label, run.failed)
                parked.append(failed)
        return _whole(batch, [*parked, active])

    def close(self) -> None:
        """Close the steps and give back the models and the snapshot; the next run reopens."""
        with self._lock:
            context, steps = self._context, self._steps
            self._context, self._steps = None, []
        _close(context, steps)

    def _opened(self) -> tuple[Context, list[tuple[str, Step]]]:
        with self._lock:
            if self._context is None:
                context = Context(_snapshot(self.collection))
                steps: list[tuple[str, Step]] = []
                try:
                    for stage in self.stages:
                        steps.append((stage.label, _opened(stage, context)))  # noqa: PERF401
                except BaseException:
                    _close(context, steps)  # those that are open already hold something
                    raise
                self._context, self._steps = context, steps
            return self._context, self._steps


def _snapshot(
    collection: Collection | ranking.Snapshot | Path | str | None,
) -> ranking.Snapshot | None:
    from rag.collection import Collection

    if isinstance(collection, str | Path):
        return Collection.open(collection).snapshot()
    return collection.snapshot() if isinstance(collection, Collection) else collection


def _close(context: Context | None, steps: Sequence[tuple[str, Step]]) -> None:
    """Close the steps, the last first, then the context; each, even if another one raises."""
    with contextlib.ExitStack() as stack:
        if context is not None:
            stack.callback(context.close)
        for _, step in steps:
            close = getattr(step, "close", None)
            if close is not None:
                stack.callback(close)


def _opened(stage: Stage, context: Context) -> Step:
    try:
        return stage.open(context)
    except RagError as error:
        error.add_note(f"while opening stage {stage.label!r}")
        raise


def _called(label: str, step: Step, batch: Batch, run: Run) -> Batch:
    try:
        after = step(batch, run)
    except RagError as error:
        error.add_note(f"in stage {label!r}")
        raise
    if not hasattr(after, "ids"):
        raise InvalidInput(f"stage {label!r} returned {type(after).__name__}, not a Batch")
    if after.ids != batch.ids:
        raise InvalidInput(f"stage {label!r} changed the rows or their order")
    return after


def _sound(batch: Batch) -> tuple[Batch, list[Batch]]:
    """The rows without an ``error``, and apart from them those with one."""
    if "error" not in batch:
        return batch, []
    failed = [row for row, error in enumerate(batch["error"]) if error is not None]
    if not failed:
        return batch, []
    return batch.take(sorted({*range(len(batch))} - {*failed})), [batch.take(failed)]


def _parted(batch: Batch, label: str, failed: dict[int, Exception]) -> tuple[Batch, Batch]:
    """The failed rows with their errors, and the others."""
    rows = sorted(failed)
    errors: list[dict[str, Any]] = [
        {"stage": label, "kind": type(failed[row]).__name__, "message": reason(failed[row])}
        for row in rows
    ]
    others = [row for row in range(len(batch)) if row not in failed]
    return batch.take(rows).put(error=errors), batch.take(others)


def _whole(before: Batch, pieces: list[Batch]) -> Batch:
    """The rows of all pieces in the order of ``before``, with a column ``error``."""
    from rag.batch import Batch

    whole = Batch.concat(pieces) if len(pieces) > 1 else pieces[0]
    if len(pieces) > 1:
        place = {name: row for row, name in enumerate(whole.ids)}
        whole = whole.take([place[name] for name in before.ids])
    return whole if "error" in whole else whole.put(error=(None,) * len(whole))
