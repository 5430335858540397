"""The files below a folder."""

from __future__ import annotations

import os
from pathlib import Path

_COLLECTION = ({"manifest", "segments"}, {".work", "log"})
"""What a folder holds that is a collection, or in which the first build of one was killed."""


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files below ``folder`` whose name ends in one of ``suffixes``, by path.

    The order is that of the code points of the path with ``/``, so it is the same on every file
    system. Names that begin with a dot are passed over, and so are collections of ours, for an
    index may be kept among the files that it is built from. What cannot be walked through (a folder
    that cannot be listed, a link to a folder) is in the list too, whatever its name: ``trouble``
    says what is wrong with it. Links to folders are not followed, for they may form circles.
    """
    found: list[str] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(folder / below) as listed:
                entries = list(listed)
                names = {entry.name for entry in entries}
                if any(marks <= names for marks in _COLLECTION):
                    continue
                for entry in entries:
                    name = f"{below}/{entry.name}" if below else entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(name)
                    elif entry.name.lower().endswith(suffixes) or os.path.isdir(folder / name):
                        found.append(name)
        except OSError:
            found.append(below)
    return [folder / name for name in sorted(found)]


def trouble(file: Path, folder: Path, *, inside: bool) -> tuple[str, str] | None:
    """What is wrong with a path of ``files_below``, and what to do; None if it can be opened.

    With ``inside``, a link to a file that is not below ``folder`` is trouble too.
    """
    # os.path, for the methods of Path raise where a folder may not be entered.
    if os.path.islink(file):
        target = Path(os.path.realpath(file))
        if not os.path.exists(target):
            return "a link that leads nowhere", "remove the link, or put the file back"
        if os.path.isdir(target):
            fix = "move the folder itself here, or index it as a source of its own"
            return "a link to a folder, which is not followed", fix
        if inside and not target.is_relative_to(os.path.realpath(folder)):
            return "a link that leads out of the folder", "copy the file here, or remove the link"
    elif os.path.isdir(file):
        return "a folder that cannot be listed", "give yourself the right to read it"
    if not os.path.exists(file):
        fix = "see that it is there and that you may enter its folder"
        return "the file has gone, or is in a folder that is closed to you", fix
    if not os.path.isfile(file):
        return "no regular file (a pipe, a socket or a device)", "remove it from the folder"
    try:
        str(file.relative_to(folder)).encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8", "rename the file (convmv turns whole folders)"
    return None


def reason(error: OSError) -> str:
    """What the system says, without the path that a message names anyway."""
    return os.strerror(error.errno) if error.errno is not None else str(error)


def shown_path(path: str) -> str:
    r"""The path as a message can print it: a byte that is not UTF-8 is written ``\xff``."""
    return os.fsencode(path).decode(errors="backslashreplace")
