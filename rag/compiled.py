"""Compiling kernels with numba, and where the machine code is kept.

``@kernel`` makes a numba function of a plain one. It compiles at its first call, says so once,
and keeps the machine code in a folder of the user, so that the next process starts at once:

    $RAG_CACHE/kernels                     where the variable is set
    $XDG_CACHE_HOME/ragstone/kernels       elsewhere (~/.cache, or ~/Library/Caches on macOS)

numba loads that code with pickle, so whoever can write to the folder can run code as its reader.
It is therefore made with mode 0700, and one that belongs to another user, or that others can
write to, is refused: kernels are then compiled in each process, and a warning says so.

Rules for a file of kernels (``_kernels*.py``), which is imported only when a kernel is needed:

- a kernel calls only kernels of its own folder, because the cache is keyed by the bytes of that
  folder's ``_kernels*.py`` (another file's name, by its own bytes alone);
- no fastmath and no reduction over threads, so that a result does not depend on the machine.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("rag")
_lock = threading.Lock()
_ours: set[int] = set()
_said: set[str] = set()
_listener: Any = None


def user_cache() -> Path:
    """The folder for what can be made again: ``$RAG_CACHE`` or the platform's cache folder."""
    if given := os.environ.get("RAG_CACHE"):
        return Path(given).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ragstone"
    # The XDG rule: a relative value is to be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ragstone"


def kernel(function: F) -> F:
    """Compile ``function`` with numba at its first call and cache the machine code.

    The options are the same for every kernel: no Python objects, the GIL released, IEEE
    arithmetic in the order that is written, and division by zero as numpy does it.
    """
    import numba

    folder = _folder_of(function)
    with _lock:
        _listen()
        # numba settles where a function is cached while it decorates it; the setting is put
        # back so that other packages' functions keep their own place.
        before = numba.config.CACHE_DIR
        try:
            numba.config.CACHE_DIR = str(folder) if folder else ""
            made = numba.njit(cache=folder is not None, nogil=True, error_model="numpy")(function)
        finally:
            numba.config.CACHE_DIR = before
        _ours.add(id(made.py_func))
    return cast(F, made)


def _folder_of(function: Callable[..., Any]) -> Path | None:
    """The cache folder for the kernels of ``function``'s file, or None where there is none.

    Its name holds the digest of all that the code depends on: numba's own check compares one stamp
    per function, and two versions of a file used at the same time could overwrite each other's
    code.
    """
    import numba

    source = Path(function.__code__.co_filename)
    if not source.is_file():  # in a zip file, or typed at a prompt
        return None
    kernels = usable(user_cache())
    if kernels is None:
        return None
    own = source.name.startswith("_kernels")
    sources = sorted(source.parent.glob("_kernels*.py")) if own else [source]
    digest = hashlib.sha256(numba.__version__.encode())
    for file in sources:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return kernels / digest.hexdigest()[:16]


def usable(base: Path) -> Path | None:
    """``base/kernels`` where it can be written by this user alone, else None and one warning."""
    folder = base / "kernels"
    try:
        base.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
        above = base.stat()
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:
        return _refused(folder, f"it cannot be written: {error}")
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        return _refused(folder, f"it belongs to user {found.st_uid}, not to you")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return _refused(folder, f"others can write to it: chmod 700 {folder}")
    if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
        return _refused(folder, f"others can write to the folder above it: chmod o-w {base}")
    return folder


def _refused(folder: Path, why: str) -> Path | None:
    _say_once(
        f"compiled kernels are not kept in {folder}: {why}. Each process compiles them again; "
        "set RAG_CACHE to a folder of your own to change that"
    )
    return None


def _say_once(message: str) -> None:
    """A line on the terminal (logging's default handler), or in the application's log."""
    if message not in _said:
        _said.add(message)
        _log.warning(message)


def _listen() -> None:
    """Have numba tell when it compiles a kernel of ours, which it does not do on a cache hit."""
    global _listener
    if _listener is not None:
        return
    from numba.core import event

    class Listener(event.Listener):  # type: ignore[misc]
        def on_start(self, event: Any) -> None:
            if id(event.data["dispatcher"].py_func) in _ours:
                _say_once("compiling kernels for this machine, once; this takes some seconds")

        def on_end(self, event: Any) -> None:
            pass

    _listener = Listener()
    event.register("numba:compile", _listener)
