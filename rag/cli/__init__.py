"""The command ``rag``: the roof over all rooms. Each command imports what it needs when it runs."""

from __future__ import annotations

import errno
import os
import sys

_NEXT = {
    errno.EACCES: "give this user the right to it ('ls -l' shows who has), or name another place",
    errno.EPERM: "give this user the right to it ('ls -l' shows who has), or name another place",
    errno.EROFS: "what is there can be read; to write, name a place on another disk",
    errno.ENOSPC: "make room and run the command again",
    errno.EDQUOT: "make room and run the command again",
    errno.EMFILE: "allow more open files ('ulimit -n 65536') and run the command again",
    errno.EIO: "the disk or its connection fails; check it, then 'rag verify' the collection",
    errno.ELOOP: "the link leads to itself; name the file that is meant",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOTDIR: "a part of this path is a file; move that away or correct the path",
    errno.EEXIST: "a file stands where a folder belongs; move it away",
    errno.EISDIR: "it is a folder; name a file",
}
"""What to do where the operating system says no and nobody has said more."""


def main() -> None:
    """Run the command line; a user's mistake exits with 2 and one message, never a traceback."""
    from rag.errors import Damaged, RagError

    try:
        from rag.cli.app import app

        app()
    except RagError as error:
        _stop(f"{error}{_notes(error)}", 1 if isinstance(error, Damaged) else 2)
    except KeyboardInterrupt:
        _stop(
            "interrupted; what was finished is kept, and the same command goes on from there", 130
        )
    except BrokenPipeError:
        # Whoever read our output (head, less) has left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        what = str(error.strerror or error)
        step = _NEXT.get(error.errno or 0) if "; " not in what else None
        _stop(f"{where}{what}{f'; {step}' if step else ''}", 1)
    except Exception as error:
        if os.environ.get("RAG_TRACEBACK"):
            raise
        _stop(
            f"this is a defect of Ragstone: {type(error).__name__}: {error}{_notes(error)}; please "
            "report it with what the same command prints under RAG_TRACEBACK=1",
            3,
        )


def _notes(error: Exception) -> str:
    """What was being done, as stages and jobs have noted it."""
    return "".join(f" ({note})" for note in getattr(error, "__notes__", ()))


def _stop(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
