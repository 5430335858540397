"""The command ``rag``: the roof over all rooms. Each command imports what it needs when it runs."""

from __future__ import annotations

import os
import sys


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
        _stop(f"{where}{error.strerror or error}", 1)
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
