"""What a stage is. This docstring is the contract, and it rules.

A **stage** is settings: a frozen pydantic model whose fields are its YAML keys, its documentation,
its JSON schema and its validation. It has two methods.

- ``columns(have) -> columns`` runs when a pipeline is loaded, before any model: given the columns
  before the stage, it returns those after it, or raises ``MissingColumn``.
- ``open(context) -> step`` opens models, indexes and the snapshot. ``step(batch, run) -> batch``
  does the work; ``step.close()``, if there is one, frees what it holds.

A step keeps the rows and their order, and adds or replaces columns. It is called from several
threads at once and is never pickled: only settings travel to workers. What goes wrong for one row
is ``run.fail(row, error)``, and the other rows go on; what is wrong for all rows raises. A step
works on a batch without rows, too. One that takes long asks ``run.cancelled()`` for the rows that
nobody waits for and looks at ``run.deadline``; one that draws at random starts at ``run.seed``.

A stage that holds stages (``rag.flow``) names the settings that do in ``nests``, checks them in
``columns``, and opens them as a ``rag.chain.Chain``, which parks failed rows as a pipeline does.

A stage of one's own, complete::

    class Shout(Stage, name="shout"):
        \"\"\"Upper-case the answer.\"\"\"
        of: str = "answer"
        marks: int = 1

        def columns(self, have):
            return have.need(self.of)

        def open(self, context):
            def step(batch, run):
                texts = [a and a.upper() + "!" * self.marks for a in batch[self.of]]
                return batch.put(**{self.of: texts})
            return step
"""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import Field, field_validator

from rag.errors import InvalidInput, MissingColumn, RagError
from rag.named import Named
from rag.run import Run

if TYPE_CHECKING:
    from rag import ranking
    from rag.batch import Batch
    from rag.collection import Snapshot
    from rag.spread import Spread

__all__ = ["Columns", "Context", "Run", "Stage", "Step", "reason"]


KEPT = frozenset({"id", "question"})
"""The columns that no stage may write."""


class Step(Protocol):
    """An opened stage."""

    def __call__(self, batch: Batch, run: Run) -> Batch:
        """Do the work of the stage on a batch."""


class Stage(Named):
    """The settings of one stage of a pipeline; see the module's docstring for the contract.

    ``class MyStage(Stage, name="my_stage")`` registers the class under the name that YAML uses.
    """

    group = "stages"

    name: str | None = Field(None, description="What errors and tables call the stage.")
    of: str | list[str] | None = Field(None, description="The column or columns read.")
    into: str | None = Field(None, description="The column written.")
    collection: str | None = Field(
        None, description="A collection of its own; default: the pipeline's."
    )

    @field_validator("into", check_fields=False)
    @classmethod
    def _may_be_written(cls, into: str | None) -> str | None:
        if into in KEPT:
            raise InvalidInput(f"the column {into!r} is never overwritten; write another one")
        return into

    @classmethod
    def nests(cls, settings: Mapping[str, Any]) -> list[str]:
        """Those keys of ``settings`` that hold lists of stages; most stages hold none."""
        return []

    @property
    def label(self) -> str:
        """The name given to this stage, or else its kind."""
        return self.name or self.kind

    def columns(self, have: Columns) -> Columns:
        """The columns after this stage, given those before it; ``MissingColumn`` if one lacks."""
        raise NotImplementedError(f"{type(self).__name__} does not say which columns it needs")

    def open(self, context: Context) -> Step:
        """Open what the stage needs and return its step."""
        raise NotImplementedError(f"{type(self).__name__} has no open()")


@dataclass(frozen=True)
class Columns:
    """The columns at one point of a pipeline: name to type, and the stage that wrote each."""

    types: Mapping[str, str] = field(
        default_factory=lambda: {"id": "str", "question": "str", "query": "texts"}
    )
    writers: Mapping[str, str] = field(default_factory=dict)
    stage: str = ""
    written: frozenset[str] = frozenset()
    """What was written since a stage that holds stages began one of its lists."""

    def need(self, *names: str, type: str | None = None) -> Columns:
        """Self, if all ``names`` are there (and of this ``type``, where one is given).

        Raises:
            MissingColumn: one is absent; the message names the nearest earlier stage.
            InvalidInput: one has another type.
        """
        for name in names:
            if name not in self.types:
                raise MissingColumn(self._missing(name))
            if type is not None and self.types[name] != type:
                raise InvalidInput(
                    f"stage {self.stage!r} reads column {name!r} as {type}, "
                    f"but {self._writer(name)} writes {self.types[name]}"
                )
        return self

    def put(self, **types: str) -> Columns:
        """With these columns written by the stage at hand.

        Raises:
            InvalidInput: one is ``id`` or ``question``.
        """
        for name in KEPT & types.keys():
            raise InvalidInput(
                f"stage {self.stage!r} writes column {name!r}, which is never overwritten; "
                "write another one"
            )
        return replace(
            self,
            types={**self.types, **types},
            writers={**self.writers, **dict.fromkeys(types, self.stage)},
            written=self.written | types.keys(),
        )

    def at(self, stage: str) -> Columns:
        """The same columns, seen by the next ``stage``."""
        return replace(self, stage=stage)

    def _writer(self, name: str) -> str:
        return f"stage {self.writers[name]!r}" if name in self.writers else "the question"

    def _missing(self, name: str) -> str:
        have = ", ".join(f"{column} (by {self._writer(column)})" for column in self.types)
        text = f"stage {self.stage!r} reads column {name!r}, which no earlier stage writes; "
        near = difflib.get_close_matches(name, self.types, n=1)
        if near:
            text += f"the nearest is {near[0]!r}, written by {self._writer(near[0])}; "
        elif name == "documents":
            text += "put a retriever such as bm25 before it; "
        return text + f"before it there are: {have}"


class Context:
    """What stages open with: the pipeline's snapshot, and models shared by key.

    A value that two stages or two pipelines ask for under one key is loaded once and freed when
    the last context that holds it closes.
    """

    def __init__(self, snapshot: ranking.Snapshot | None = None) -> None:
        """Serve ``snapshot`` to the stages that name no collection of their own."""
        self._snapshot = snapshot
        self._held: list[Hashable] = []

    def snapshot(self, collection: str | None = None) -> Snapshot:
        """The snapshot of a stage's own ``collection``, or else the pipeline's.

        Raises:
            InvalidInput: there is neither.
        """
        if collection is not None:
            from rag.collection import Collection

            opened = Collection.open(collection)
            newest = opened.snapshot()
            key = ("snapshot", opened.path.resolve(), newest.identity)
            return cast("Snapshot", self.get(key, lambda: newest))
        if self._snapshot is None:
            raise InvalidInput(
                "the pipeline searches a collection and none is given; write 'collection: DIR' in "
                "the file, pass -c DIR, or Pipeline.load(..., collection=DIR)"
            )
        # One without indexes (rag.testing.MemorySnapshot) serves the stages that read passages.
        return cast("Snapshot", self._snapshot)

    def spread(self, settings: Spread) -> None:
        """From now on search the snapshot that was given by actors, until this context closes.

        Raises:
            InvalidInput: there is none, or it is spread already, or it has too few segments.
        """
        from rag.collection import Snapshot
        from rag.collection.spread import opened

        there = self.snapshot()
        if type(there) is not Snapshot:
            raise InvalidInput(
                f"spread: found {type(there).__name__}, expected a collection's own snapshot; "
                "leave 'spread' out where one is given that is spread already"
            )
        key = ("spread", there.path.resolve(), there.identity, settings)
        self._snapshot = self.get(
            key, lambda: opened(there.path, there.manifest, **settings.model_dump())
        )

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """The shared value of ``key``; ``load()`` makes it when nobody holds it yet."""
        value = _shared.acquire(key, load)
        self._held.append(key)
        return value

    def within(self, collection: str | None) -> Context:
        """What stages open with that default to another ``collection`` (None: to the same).

        What they hold is given back when this context closes.
        """
        if collection is None:
            return self
        inner = Context(self.snapshot(collection))
        inner._held = self._held
        return inner

    def close(self) -> None:
        """Give back all values that this context holds."""
        with contextlib.ExitStack() as stack:  # each is released, even if another one raises
            while self._held:
                stack.callback(_shared.release, self._held.pop(0))


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    holders: int = 0
    value: Any = None
    loaded: bool = False


class _Shared:
    """Values by key with reference counts; one lock a key, so that loads run side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}

    def acquire(self, key: Hashable, load: Callable[[], Any]) -> Any:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            entry.holders += 1
        try:
            with entry.lock:
                if not entry.loaded:
                    entry.value, entry.loaded = load(), True
                return entry.value
        except BaseException:
            self.release(key)
            raise

    def release(self, key: Hashable) -> None:
        with self._lock:
            entry = self._entries[key]
            entry.holders -= 1
            if entry.holders:
                return
            del self._entries[key]
        close = getattr(entry.value, "close", None)
        if close is not None:
            close()


_shared = _Shared()


def reason(error: Exception) -> str:
    """An error in words: the message of ours, the class and message of anybody else's."""
    return str(error) if isinstance(error, RagError) else f"{type(error).__name__}: {error}"
