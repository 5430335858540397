"""Who writes and who reads: locks of the operating system, which end with their process.

Every writer holds ``log/writer.lock`` shared as long as it works. Whoever removes files (pieces of
finished jobs, ``clean``) needs it alone, and so never takes what a live job still uses. Jobs that
replace what others are reading hold ``log/rewriter.lock`` too, one at a time: they could only
find out at their end that both cannot hold. A reader holds its manifest's file shared, so ``clean``
knows what is still read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from rag.collection import build
from rag.errors import Conflict, InvalidInput, NotFound, RagError

WRITERS, REWRITER = "writer.lock", "rewriter.lock"


@contextmanager
def writing(collection: Path, *, rewrites: bool = False, pieces: bool = True) -> Iterator[None]:
    """Write in the collection, beside other writers.

    Args:
        collection: its folder; made where it does not exist.
        rewrites: whether the job replaces segments or indexes; only one such job runs at a time.
        pieces: whether pieces of unfinished jobs are of no more use once this one has succeeded.

    Raises:
        Conflict: another job that rewrites is running; the message names its process.
        InvalidInput: the folder holds something else than a collection.
    """
    _check_folder(collection)
    with _told(collection), ExitStack() as stack:
        (collection / "log").mkdir(parents=True, exist_ok=True)
        if rewrites:
            stack.enter_context(_only_rewriter(collection))
        lease = stack.enter_context((collection / "log" / WRITERS).open("a"))
        if _alone(lease):
            _tidy(collection)
            lease.truncate(0)
        # Waits for one who is removing files; he is soon done.
        fcntl.flock(lease, fcntl.LOCK_SH)
        _note(lease, f"process {os.getpid()}")
        try:
            yield
        finally:
            with suppress(OSError):  # only what 'clean' says hangs on it
                _note(lease, f"process {os.getpid()}{_ENDED}")
        fcntl.flock(lease, fcntl.LOCK_UN)
        if pieces and _alone(lease):
            shutil.rmtree(collection / build.WORK, ignore_errors=True)


@contextmanager
def cleaning(collection: Path) -> Iterator[None]:
    """Remove files of the collection: no writer is at work, and none begins meanwhile.

    Raises:
        Conflict: a job is writing; the message names its process.
    """
    _check_folder(collection)
    with _told(collection), ExitStack() as stack:
        (collection / "log").mkdir(exist_ok=True)
        lease = stack.enter_context((collection / "log" / WRITERS).open("a+"))
        if not _alone(lease):
            lease.seek(0)
            who = ", ".join(_living(lease.read().splitlines())) or "unknown"
            raise Conflict(
                f"{collection}: another job is writing here ({who}), and what it has made is not "
                "named by a manifest yet; wait until it ends and run the command again"
            )
        _tidy(collection)
        yield


def reading(path: Path) -> int:
    """Hold the manifest in the file ``path`` for reading; returns the open descriptor.

    Raises:
        NotFound: it was removed a moment ago.
    """
    descriptor = os.open(path, os.O_RDONLY)
    # Without locks of the file system, what is mapped stays all the same.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not os.fstat(descriptor).st_nlink:
        os.close(descriptor)
        raise NotFound(f"{path}: was removed ('rag clean') just now; open the collection again")
    return descriptor


@contextmanager
def unread(path: Path) -> Iterator[bool]:
    """Whether nobody reads by the manifest in the file ``path``; none begins meanwhile."""
    with path.open("rb") as file:
        yield _alone(file)


def _alone(file: IO[str] | IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_ENDED = " ended"


def _note(lease: IO[str], line: str) -> None:
    """Append a line in one write, beside other writers."""
    lease.write(f"{line}\n")
    lease.flush()


def _living(lines: list[str]) -> Iterator[str]:
    """The ``process N`` that have begun, have not ended and were not killed.

    Only this machine's are known: one that writes from another one may be left out.
    """
    begun = Counter(line for line in lines if not line.endswith(_ENDED))
    begun.subtract(line.removesuffix(_ENDED) for line in lines if line.endswith(_ENDED))
    for writer in +begun:
        with suppress(ValueError, ProcessLookupError):
            with suppress(PermissionError):  # it is another user's
                os.kill(int(writer.removeprefix("process ")), 0)
            yield writer


@contextmanager
def _only_rewriter(collection: Path) -> Iterator[None]:
    with (collection / "log" / REWRITER).open("a+") as file:
        if not _alone(file):
            file.seek(0)
            raise Conflict(
                f"{collection}: another job is writing here ({file.read().strip() or 'unknown'}); "
                "wait until it ends and run the command again"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def _check_folder(collection: Path) -> None:
    if collection.exists() and not collection.is_dir():
        raise InvalidInput(f"{collection}: is a file; a collection is a folder: name another")
    ours = {"manifest", "segments", "indexes", "vectors", "trained", "deleted", "log", build.WORK}
    names = {path.name for path in collection.iterdir()} if collection.is_dir() else set()
    if names - ours and "manifest" not in names:
        raise InvalidInput(
            f"{collection}: holds files and is not a collection; name a new or empty folder"
        )


def _tidy(collection: Path) -> None:
    """Remove what killed jobs were writing; what they had finished stays for the next run."""
    for stale in (collection / build.WORK).glob("tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    for part in ("manifest", "deleted"):
        for unborn in (collection / part).glob(".tmp-*"):
            unborn.unlink(missing_ok=True)


@contextmanager
def _told(collection: Path) -> Iterator[None]:
    """Say of a disk that takes no more where that was and what to do."""
    try:
        yield
    except RagError:
        raise
    except OSError as error:
        # numpy says how much of an array was written, and no error number.
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if error.errno is not None and error.errno not in full:
            raise
        what = os.strerror(error.errno) if error.errno else f"not all could be written ({error})"
        advice = "the collection is as it was; make room and run the command again"
        raise OSError(error.errno, f"{what}; {advice}", str(collection)) from error
