"""A list of stages that questions run through."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from rag.chain import Chain, columns_after, together
from rag.errors import InvalidInput, StageFailed
from rag.run import Cancel, Listener, Run
from rag.stage import Columns, Context, Stage, reason

if TYPE_CHECKING:
    from rag import ranking
    from rag.batch import Batch, Citation, Hit
    from rag.collection import Collection, Snapshot
    from rag.jobs import Resources
    from rag.spread import Spread
    from rag.streaming import Event

OnError = Literal["keep", "stop"]


@dataclass(frozen=True)
class Answer:
    """What ``ask`` returns; a field that no stage of the pipeline writes is empty or None."""

    text: str | None
    citations: tuple[Citation, ...]
    confidence: float | None
    documents: tuple[Hit, ...]
    route: str | None
    partial: str | None = None
    """What part of the collection was not searched; None where all was (``docs/ray.md``)."""


class Pipeline:
    """Stages in order over one snapshot of a collection.

    Args:
        stages: the stages; the columns that each needs are checked here, before any model. Another
            pipeline may be one of them.
        collection: a ``Collection``, a snapshot of one, or its folder. Needed as soon as a stage
            searches; it is opened at the first question and pinned until ``close``.
        on_error: ``keep`` fills a failed row's ``error`` and goes on; ``stop`` raises.
        name: what tables call the pipeline.
        spread: search the collection by actors of a Ray cluster, which start with it (docs/ray.md).
        resources: what a worker needs of a Ray cluster in a job (``rag run``, ``rag eval``).

    Raises:
        MissingColumn: a stage reads a column that no earlier stage writes.
        InvalidInput: there is no stage, or something is not a stage.
    """

    def __init__(
        self,
        stages: Sequence[Stage | Pipeline],
        collection: Collection | ranking.Snapshot | Path | str | None = None,
        *,
        on_error: OnError = "keep",
        name: str = "pipeline",
        spread: Spread | None = None,
        resources: Resources | None = None,
    ) -> None:
        """Check the stages and the columns that they pass on."""
        if not stages:
            raise InvalidInput("a pipeline needs at least one stage")
        for number, stage in enumerate(stages, 1):
            if not isinstance(stage, Stage | Pipeline):
                raise InvalidInput(f"stage {number} is {stage!r}, not a Stage (forgot the call?)")
        self.stages = tuple(s if isinstance(s, Stage) else s.as_stage() for s in stages)
        self.collection = collection
        self.on_error = on_error
        self.name = name
        self.spread = spread
        self.resources = resources
        self.columns = columns_after(self.stages, Columns())
        self._lock = threading.Lock()
        self._context: Context | None = None
        self._chain = Chain(())

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

    def as_stage(self) -> Stage:
        """This pipeline as a stage of another, which has its settings only.

        A list of stages takes the pipeline itself, too.

        Raises:
            InvalidInput: the pipeline holds a snapshot, which settings cannot.
        """
        from rag.flow import SubPipeline

        return SubPipeline.of_pipeline(self)

    def ask(self, question: str, *, seed: int = 0, timeout: float | None = None) -> Answer:
        """Answer one question, within ``timeout`` seconds.

        Raises:
            StageFailed: a stage could not do the row; the message says which and why.
        """
        return answer_of(self.run([question], seed=seed, timeout=timeout))

    def run(
        self,
        questions: Sequence[str] | Batch,
        *,
        seed: int = 0,
        timeout: float | None = None,
        cancel: Cancel | None = None,
        listener: Listener | None = None,
        progress: Callable[[str, int], None] | None = None,
    ) -> Batch:
        """Run all questions through the stages; rows keep their order, and none is lost.

        A row that fails in a stage skips the later ones; its ``error`` names the stage. A row
        that comes with an ``error`` skips them all.

        Args:
            questions: texts, or a batch.
            seed: what stages that draw at random start from.
            timeout: seconds; the rows that are left then fail at the next stage.
            cancel: cancels rows while they run; they fail in the stage at hand.
            listener: called with a row, ``passages`` or ``token``, and the value, as it happens.
            progress: ``progress(stage, rows)`` is called as each stage starts.
        """
        from rag.batch import Batch

        batch = questions if isinstance(questions, Batch) else Batch.of(questions)
        chain = self._opened()[1]
        sound, rows, pieces = _sound(batch)
        run = Run(
            seed,
            listener,
            deadline=None if timeout is None else time.monotonic() + timeout,
            cancel=cancel,
            stop=self.on_error == "stop",
            progress=progress,
            rows=rows,
        )
        after = chain(sound, run, through=False)
        if run.failed:
            after = after.put(error=[_said(run, row) for row in range(len(after))])
        whole = together(len(batch), [*pieces, (rows, after)])
        if run.partial:
            said = [run.partial.get(row) for row in range(len(whole))]
            whole = whole.put(partial=[None if text is None else "; ".join(text) for text in said])
        return whole if "error" in whole else whole.put(error=(None,) * len(whole))

    def stream(
        self, question: str, *, seed: int = 0, timeout: float | None = None
    ) -> Generator[Event, None, None]:
        """Answer one question, and yield what happens on the way as it happens.

        Events are ``passages`` (after each stage that changes a ranking), ``token`` (from readers
        whose backend streams), and as the last one ``answer``. The stages run in a thread of
        their own; closing the generator cancels, and returns when the stage at hand has noticed.

        Raises:
            StageFailed: a stage could not do the row; the message says which and why.
        """
        from rag.streaming import streamed

        return streamed(self, question, seed=seed, timeout=timeout)

    def astream(
        self, question: str, *, seed: int = 0, timeout: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """As ``stream``, for ``async for``; cancelling the task or closing it cancels the row."""
        from rag.streaming import astreamed

        return astreamed(self, question, seed=seed, timeout=timeout)

    async def arun(
        self, questions: Sequence[str] | Batch, *, seed: int = 0, timeout: float | None = None
    ) -> Batch:
        """As ``run``, in a thread; cancelling the task cancels all rows.

        The thread goes on until the step at hand asks ``run.cancelled()`` or ends.
        """
        from rag.streaming import aran

        return await aran(self, questions, seed=seed, timeout=timeout)

    def close(self) -> None:
        """Close the steps and give back the models and the snapshot; the next run reopens."""
        with self._lock:
            context, chain = self._context, self._chain
            self._context, self._chain = None, Chain(())
        _close(context, chain)

    def _opened(self) -> tuple[Context, Chain]:
        with self._lock:
            if self._context is None:
                context = Context(_snapshot(self.collection))
                try:
                    if self.spread is not None:
                        context.spread(self.spread)
                    self._chain = Chain.open(self.stages, context)
                except BaseException:
                    context.close()
                    raise
                self._context = context
            return self._context, self._chain


def answer_of(batch: Batch) -> Answer:
    """The answer in the one row of a batch that ran.

    Raises:
        StageFailed: the row failed.
    """
    row = batch.row(0)
    if row["error"] is not None:
        error = row["error"]
        raise StageFailed(f"stage {error['stage']!r}: {error['message']}")
    return Answer(
        row.get("answer"),
        row.get("citations") or (),
        row.get("confidence"),
        tuple(row.get("documents") or ()),
        row.get("route"),
        row.get("partial"),
    )


def _snapshot(
    collection: Collection | ranking.Snapshot | Path | str | None,
) -> ranking.Snapshot | None:
    from rag.collection import Collection

    if isinstance(collection, str | Path):
        return Collection.open(collection).snapshot()
    return collection.snapshot() if isinstance(collection, Collection) else collection


def _close(context: Context | None, chain: Chain) -> None:
    """Close the steps, then the context; even if a step raises."""
    try:
        chain.close()
    finally:
        if context is not None:
            context.close()


def _sound(batch: Batch) -> tuple[Batch, Sequence[int], list[tuple[Sequence[int], Batch]]]:
    """The rows without an ``error``, which these are, and apart from them those with one."""
    if "error" not in batch:
        return batch, range(len(batch)), []
    errors = batch["error"]
    failed = [row for row, error in enumerate(errors) if error is not None]
    if not failed:
        return batch, range(len(batch)), []
    rows = [row for row, error in enumerate(errors) if error is None]
    return batch.take(rows), rows, [(failed, batch.take(failed))]


def _said(run: Run, row: int) -> dict[str, str] | None:
    """The ``error`` of a row."""
    if row not in run.failed:
        return None
    error = run.failed[row]
    return {"stage": run.stages[row], "kind": type(error).__name__, "message": reason(error)}
