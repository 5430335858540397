"""The problems of one file, collected while it is checked."""

from __future__ import annotations

from rag.errors import InvalidFile, Problem

Place = tuple[int, int]
"""Line and column, both 1-based."""


def joined(path: str, key: str) -> str:
    """The path of a key below another, as errors show it: ``stages[0].bm25``."""
    return f"{path}.{key}" if path else key


class Report:
    """Collects what is wrong with one file."""

    def __init__(self, file: str) -> None:
        """Name the ``file`` as the user gave it."""
        self.file = file
        self._problems: list[Problem] = []

    def add(self, place: Place, key: str, message: str) -> None:
        """One more problem at ``place``; ``key`` is the path of keys to it, or empty."""
        self._problems.append(Problem(self.file, *place, key, message))

    def include(self, other: Report) -> None:
        """The problems of a file that this one includes; they follow those of this one."""
        self._problems += other.problems

    def fatal(self, place: Place, message: str) -> InvalidFile:
        """An error after which nothing can be read; what was collected before goes with it."""
        self.add(place, "", message)
        return InvalidFile(self.problems)

    @property
    def problems(self) -> list[Problem]:
        """All problems, each once, in the order of the file; then those of files it includes."""
        unique = dict.fromkeys(self._problems)
        own = [problem for problem in unique if problem.file == self.file]
        own.sort(key=lambda problem: (problem.line, problem.column))
        return [*own, *(problem for problem in unique if problem.file != self.file)]
