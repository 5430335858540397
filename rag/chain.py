"""Opened stages in order: how a batch passes through them, and where failed rows go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag.errors import Cancelled, DeadlinePassed, InvalidInput, StageFailed
from rag.run import Run, calling
from rag.stage import Columns, Context, Stage, Step, reason

if TYPE_CHECKING:
    from rag.batch import Batch


def columns_after(stages: Sequence[Stage], have: Columns) -> Columns:
    """The columns after the ``stages``, seen by the same stage as ``have``."""
    after = have
    for stage in stages:
        after = stage.columns(after.at(stage.label))
    return after.at(have.stage)


class Chain:
    """The steps of some stages; a step itself, which a stage that holds stages calls.

    A row that fails in one of them skips the others and comes back as far as it was done; the
    run that was given learns its error. So do rows that are cancelled, and all rows that are left
    when the deadline passes, at the boundary of the next stage.
    """

    flow = True  # its steps have told of their passages

    def __init__(self, steps: Sequence[tuple[str, Step]]) -> None:
        """Hold the labels and the steps."""
        self.steps = tuple(steps)

    @classmethod
    def open(cls, stages: Sequence[Stage], context: Context) -> Chain:
        """Open the ``stages``; if one cannot be opened, those before it are closed again."""
        steps: list[tuple[str, Step]] = []
        try:
            for stage in stages:
                steps.append((stage.label, _opened(stage, context)))  # noqa: PERF401
        except BaseException:
            cls(steps).close()
            raise
        return cls(steps)

    def __call__(self, batch: Batch, run: Run, *, through: bool = True) -> Batch:
        """The rows of ``batch`` after the steps, in their order.

        ``through``: with no rows left the steps are called all the same, so that the columns are
        there for rows that come together with these ones.
        """
        left: Sequence[int] = range(len(batch))
        active, parked = batch, list[tuple[Sequence[int], "Batch"]]()
        inner, may_halt = run.below(left), run.deadline is not None or run.cancel is not None
        for label, step in self.steps:
            if may_halt:
                _halt(inner, label, len(left))
                if inner.failed:
                    left, active = _part(left, active, inner, run, label, parked)
                    inner = run.below(left)
            if not left and not through:
                break
            if run.progress is not None and left:
                run.progress(label, len(left))
            before, active = active, _called(label, step, active, inner)
            for row in inner.cancelled() if may_halt else ():
                inner.fail(row, Cancelled(f"cancelled in stage {label!r}"))
            if run.listener is not None and not getattr(step, "flow", False):
                _tell(before, active, inner)
            if inner.failed:
                left, active = _part(left, active, inner, run, label, parked)
                inner = run.below(left)
        return together(len(batch), [*parked, (left, active)])

    def on(self, batch: Batch, rows: Sequence[int], run: Run) -> Batch:
        """These rows of ``batch`` after the steps; ``run`` is that of the whole batch."""
        inner = run.below(rows)
        part = batch if len(rows) == len(batch) else batch.take(rows)
        after = self(part, inner)
        for row, error in inner.failed.items():
            run.fail(rows[row], error, stage=inner.stages.get(row))
        return after

    def close(self) -> None:
        """Close the steps, the last first; each, even if another one raises."""
        with contextlib.ExitStack() as stack:
            for _, step in self.steps:
                close = getattr(step, "close", None)
                if close is not None:
                    stack.callback(close)


def together(count: int, pieces: Sequence[tuple[Sequence[int], Batch]]) -> Batch:
    """The batch of ``count`` rows whose pieces these are: rows, and a batch of them."""
    if len(pieces) == 1:
        return pieces[0][1]
    from rag.batch import Batch

    # An empty piece is kept where another one lacks its columns.
    known = {name for rows, piece in pieces if len(rows) for name in piece.columns}
    full = [(r, p) for r, p in pieces if len(r) or not known.issuperset(p.columns)] or pieces[-1:]
    if len(full) == 1:
        return full[0][1]
    order = [row for rows, _ in full for row in rows]
    place = {row: position for position, row in enumerate(order)}
    whole = Batch.concat([piece for _, piece in full])
    return whole.take([place[row] for row in range(count)])


def _opened(stage: Stage, context: Context) -> Step:
    try:
        return stage.open(context)
    except Exception as error:
        error.add_note(f"while opening stage {stage.label!r}")
        raise


def _called(label: str, step: Step, batch: Batch, run: Run) -> Batch:
    try:
        with calling(run):
            after = step(batch, run)
    except StageFailed:
        raise  # it names the stage and the row already
    except Exception as error:
        error.add_note(f"in stage {label!r}")
        raise
    if not hasattr(after, "ids"):
        raise InvalidInput(f"stage {label!r} returned {type(after).__name__}, not a Batch")
    if after.ids is not batch.ids and after.ids != batch.ids:
        raise InvalidInput(f"stage {label!r} changed the rows or their order")
    return after


def _halt(run: Run, label: str, count: int) -> None:
    """Fail the rows that are cancelled, and all when the deadline has passed."""
    for row in run.cancelled():
        run.fail(row, Cancelled(f"cancelled before stage {label!r}"))
    if run.deadline is not None and time.monotonic() >= run.deadline:
        for row in range(count):
            run.fail(row, DeadlinePassed(f"the time given ended before stage {label!r} began"))


def _part(
    left: Sequence[int],
    active: Batch,
    inner: Run,
    run: Run,
    label: str,
    parked: list[tuple[Sequence[int], Batch]],
) -> tuple[Sequence[int], Batch]:
    """Park the rows that ``inner`` failed, pass their errors on to ``run``; the rows left."""
    failed = sorted(inner.failed)
    for row in failed:
        error, stage = inner.failed[row], inner.stages.get(row, label)
        if run.stop:
            raise StageFailed(
                f"stage {stage!r}: question {active.ids[row]!r}: {reason(error)}"
            ) from error
        run.fail(left[row], error, stage=stage)
    parked.append(([left[row] for row in failed], active.take(failed)))
    others = [row for row in range(len(left)) if row not in inner.failed]
    return [left[row] for row in others], active.take(others)


def _tell(before: Batch, after: Batch, run: Run) -> None:
    """Emit the passages of each ranking that a step changed."""
    for name, kind in after.columns.items():
        if kind != "ranking" or (name in before and before[name] is after[name]):
            continue
        for row in range(len(after)):
            if after[name].is_valid[row] and row not in run.failed:
                run.emit(row, "passages", tuple(after[name][row]))
