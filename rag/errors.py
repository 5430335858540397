"""Every error that Ragstone raises on purpose.

    RagError
    ├── InvalidInput      (ValueError)         an argument or a setting cannot be used
    ├── InvalidFile       (ValueError)         a YAML file has errors; it lists all of them
    ├── BadRow            (ValueError)         a row of a source cannot be indexed
    ├── MissingColumn     (LookupError)        a stage reads a column that no earlier stage writes
    ├── NotFound          (FileNotFoundError)  a collection, index, passage or model is absent
    ├── Damaged           (OSError)            bytes on disk differ from what was committed
    ├── Conflict          (OSError)            another writer committed first, and both cannot hold
    ├── MissingExtra      (ImportError)        an optional package is not installed
    ├── BackendFailed     (RuntimeError)       a model or a server refused, or gave no usable answer
    ├── TrainingFailed    (RuntimeError)       a training cannot go on; its last checkpoint is kept
    ├── Cancelled         (RuntimeError)       nobody waits for the row any more
    ├── DeadlinePassed    (TimeoutError)       the time given to a call ended
    └── StageFailed       (RuntimeError)       a row failed in a stage (raised by ``ask`` and
                                               ``stream``, and where ``on_error`` is ``stop``)

A message names the thing, the place, what was found, what was expected and the next step. The
command line prints it as it stands and exits with 2, so it is written for the person at the
terminal.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""With these numbers a system refuses to open a file that may well be whole: no ``Damaged``."""


class RagError(Exception):
    """The root: ``except RagError`` catches all that Ragstone raises on purpose."""


class InvalidInput(RagError, ValueError):
    """An argument or a setting cannot be used."""


class MissingColumn(RagError, LookupError):
    """A stage reads a column that no earlier stage writes."""


class NotFound(RagError, FileNotFoundError):
    """A collection, an index, a passage, a pipeline or a model is absent."""


class Damaged(RagError, OSError):
    """Bytes on disk differ from what was committed."""


class Conflict(RagError, OSError):
    """Another writer committed first, and the two changes cannot both hold."""


class BackendFailed(RagError, RuntimeError):
    """A model or a server refused, or gave no usable answer."""


class TrainingFailed(RagError, RuntimeError):
    """A training cannot go on: a loss is no number, or a checkpoint cannot be written."""


class Cancelled(RagError, RuntimeError):
    """Nobody waits for the row any more; it stops at the next stage or sooner."""


class DeadlinePassed(RagError, TimeoutError):
    """The time given to a call ended; rows that are not done fail at the next stage."""


class StageFailed(RagError, RuntimeError):
    """A row failed in a stage; ``Pipeline.ask`` raises it, ``Pipeline.run`` fills ``error``."""


class MissingExtra(RagError, ImportError):
    """An optional package is not installed.

    ``MissingExtra("dense", "faiss")`` says which extra to install for which module.
    """

    def __init__(self, extra: str, module: str) -> None:
        """Name the ``extra`` of the distribution that brings the ``module``."""
        super().__init__(
            f"the package {module!r} is not installed; it comes with the extra {extra!r}: "
            f"pip install 'ragstone[{extra}]'"
        )
        self.extra, self.module = extra, module

    def __reduce__(self) -> tuple[object, ...]:
        """So that a worker process can send it."""
        return type(self), (self.extra, self.module)


class BadRow(RagError, ValueError):
    """A row of a source cannot be indexed."""

    def __init__(self, file: Path | str, line: int, field: str, found: str, fix: str) -> None:
        """Say where (``file``, 1-based ``line``, ``field``), what was ``found`` and the ``fix``."""
        super().__init__(f"{file}:{line}: field {field!r}: {found}; {fix}")
        self.file, self.line, self.field, self.found, self.fix = str(file), line, field, found, fix

    def __reduce__(self) -> tuple[object, ...]:
        """So that a worker process can send it."""
        return type(self), (self.file, self.line, self.field, self.found, self.fix)


@dataclass(frozen=True)
class Problem:
    """One error in a YAML file: 1-based position, the key's path, and what is wrong."""

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        """``file:line:column: key: message``, the form that editors jump to."""
        where = f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class InvalidFile(RagError, ValueError):
    """A YAML file has errors; ``problems`` lists all of them, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Hold the ``problems``; the message is one line each."""
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[object, ...]:
        """So that a worker process can send it."""
        return type(self), (self.problems,)
