"""The opened stages of ``rag.flow``: which rows go where, and how they come together again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rag.chain import Chain, together
from rag.conditions import holds
from rag.errors import InvalidInput
from rag.run import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.batch import Batch
    from rag.flow import Repeat


class UnlessStep:
    """The rows for which the condition does not hold, through a chain."""

    flow = True

    def __init__(self, chain: Chain, skips: Callable[[Batch], NDArray[np.bool_]]) -> None:
        """Hold the chain and the condition."""
        self.chain, self.skips = chain, skips

    def __call__(self, batch: Batch, run: Run) -> Batch:
        """The batch with the other rows done."""
        skips = self.skips(batch).tolist()
        rows = [row for row, skip in enumerate(skips) if not skip]
        spared = [row for row, skip in enumerate(skips) if skip]
        after = self.chain.on(batch, rows, run)
        return together(len(batch), [(spared, batch.take(spared)), (rows, after)])

    def close(self) -> None:
        """Close the chain."""
        self.chain.close()


class BranchStep:
    """Every row through the chain of each side."""

    flow = True

    def __init__(self, label: str, chains: Mapping[str, Chain]) -> None:
        """Hold the chains by the names of the sides."""
        self.label, self.chains = label, chains

    def __call__(self, batch: Batch, run: Run) -> Batch:
        """The batch with the columns of all sides; rows that fail in one skip those after it."""
        left: list[int] = list(range(len(batch)))
        result, parked = batch, list[tuple[list[int], "Batch"]]()
        wrote: dict[str, str] = {}
        for side, chain in self.chains.items():
            inner = run.below(left)
            start = batch if len(left) == len(batch) else batch.take(left)
            result = self._put(result, side, start, chain(start, inner), wrote)
            if not inner.failed:
                continue
            for row, error in inner.failed.items():
                run.fail(left[row], error, stage=inner.stages.get(row))
            failed = sorted(inner.failed)
            others = [row for row in range(len(left)) if row not in inner.failed]
            parked.append(([left[row] for row in failed], result.take(failed)))
            result, left = result.take(others), [left[row] for row in others]
        return together(len(batch), [*parked, (left, result)])

    def _put(
        self, result: Batch, side: str, start: Batch, after: Batch, wrote: dict[str, str]
    ) -> Batch:
        """``result`` with what a side wrote; a stage may write what it did not announce."""
        columns: dict[str, Any] = {}
        for name in after.columns:
            if name not in start:
                columns[f"{side}.{name}"] = after[name]
            elif after[name] is not start[name] and after[name] != start[name]:
                if name in wrote:
                    raise InvalidInput(
                        f"stage {self.label!r}: the sides {wrote[name]!r} and {side!r} both "
                        f"write column {name!r}, which was there before"
                    )
                wrote[name] = side
                columns[name] = after[name]
        return result.put(**columns)

    def close(self) -> None:
        """Close the chains; each, even if another one raises."""
        with contextlib.ExitStack() as stack:
            for chain in self.chains.values():
                stack.callback(chain.close)


class RepeatStep:
    """The rows through a chain, round after round."""

    flow = True

    def __init__(self, chain: Chain, settings: Repeat) -> None:
        """Hold the chain and the settings."""
        self.chain, self.settings = chain, settings

    def __call__(self, batch: Batch, run: Run) -> Batch:
        """The batch after the last round of each row."""
        settings = self.settings
        left: list[int] = list(range(len(batch)))
        active, done = batch, list[tuple[list[int], "Batch"]]()
        trace = None if settings.trace is None else _Trace(batch)
        for number in range(settings.times):
            inner = run.below(left)
            after = self.chain(active, inner)
            if trace is not None:
                trace.add(left, after)
            active = self._united(active, after) if number else after
            for row, error in inner.failed.items():
                run.fail(left[row], error, stage=inner.stages.get(row))
            leave = self._finished(active) | inner.failed.keys()
            if leave:
                rows = sorted(leave)
                done.append(([left[row] for row in rows], active.take(rows)))
                others = [row for row in range(len(left)) if row not in leave]
                active, left = active.take(others), [left[row] for row in others]
            if not left:
                break
        whole = together(len(batch), [*done, (left, active)])
        return whole if trace is None else whole.put(**{str(settings.trace): trace.column})

    def _united(self, before: Batch, after: Batch) -> Batch:
        from rag.ranking import Ranking

        united = {}
        for name in self.settings.keep:
            both = [before[name], after[name]]
            if all(isinstance(ranking, Ranking) for ranking in both):
                united[name] = Ranking.union(both)
        return after.put(**united)

    def _finished(self, batch: Batch) -> set[int]:
        if self.settings.until is None or not len(batch):
            return set()
        held = holds(self.settings.until, batch)
        return {row for row, holds_ in enumerate(held.tolist()) if holds_}

    def close(self) -> None:
        """Close the chain."""
        self.chain.close()


class _Trace:
    """What each round changed in each row, as JSON values."""

    def __init__(self, batch: Batch) -> None:
        self._before = {name: _plain(batch[name]) for name in batch.columns}
        self._rounds: list[list[dict[str, Any]]] = [[] for _ in range(len(batch))]

    def add(self, rows: Sequence[int], after: Batch) -> None:
        """A round of ``rows``, which are the rows of ``after``."""
        columns = {name: _plain(after[name]) for name in after.columns}
        nothing = [None] * len(self._rounds)
        for place, row in enumerate(rows):
            self._rounds[row].append(
                {
                    name: values[place]
                    for name, values in columns.items()
                    if values[place] != self._before.get(name, nothing)[row]
                }
            )

    @property
    def column(self) -> list[dict[str, Any]]:
        """One struct a row."""
        return [{"rounds": rounds} for rounds in self._rounds]


def _plain(column: Any) -> list[Any]:
    """The values of a column as JSON has them; a ranking as the ids of its passages."""
    from rag.batch import as_json
    from rag.ranking import Ranking

    if not isinstance(column, Ranking):
        return [as_json(value) for value in column]
    ids = column.snapshot.rows(column.docs, ("id",))["id"].to_pylist()
    starts = column.offsets.tolist()
    parts = [ids[start:end] for start, end in pairwise(starts)]
    return [p if valid else None for p, valid in zip(parts, column.is_valid.tolist(), strict=True)]
