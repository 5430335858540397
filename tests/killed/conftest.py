"""Commands that are ended at a chosen point, and what may be there afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rag import Collection

SERVER = Path(__file__).with_name("job_server.py")
ROOT = Path(__file__).parents[2]
Point = tuple[int, str] | tuple[int, str, str, str]
"""The number of a call from 0, "before" or "after"; counted are calls of this name with this text.
"""


@dataclass(frozen=True)
class Ended:
    """What became of a command.

    Attributes:
        pid: its process.
        stopped: it stands still at its point, and is not at its end.
        code: its exit code, -9 if it was killed; None while it stands still.
        at: the call before or after which it was ended, None if at an instant.
        calls: all calls that it made, if it came to its end; None otherwise.
        seconds: from its start to its end.
        out: what it printed.
        err: what it said of errors.
    """

    pid: int
    stopped: bool
    code: int | None
    at: str | None
    calls: list[str] | None
    seconds: float
    out: str
    err: str


class Jobs:
    """Starts commands and ends them where it is told; see ``job_server.py``."""

    def __init__(self, *namespace: str, arguments: Sequence[str] = ()) -> None:
        """Start the server, by the command ``namespace`` if there is one."""
        command = [*namespace, sys.executable, str(SERVER), *arguments]
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "PYTHONPATH": path},
        )
        self.pid = int(self._answer()["ready"])

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError("the server of jobs has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def run(self, *arguments: object) -> Ended:
        """A command that nobody disturbs; it says no traceback, whatever it comes to."""
        ended = Ended(**self._ask(do="start", arguments=[str(a) for a in arguments]))
        assert "Traceback" not in ended.err, ended.err
        assert "defect" not in ended.err, ended.err
        assert ended.calls is not None, ended.err
        return ended

    def kill(self, arguments: Sequence[object], where: Point | float) -> Ended | None:
        """Kill a command before or after a call of its own (its number), or after some seconds.

        Returns:
            What became of it; None if it had finished before the instant came.
        """
        names = [str(argument) for argument in arguments]
        if isinstance(where, float):
            ended = Ended(**self._ask(do="start", arguments=names, after=where))
        else:
            ended = Ended(**self._ask(do="start", arguments=names, point=where))
            assert ended.at is not None, (where, ended.err)
        if ended.calls is not None:
            assert isinstance(where, float)
            return None
        # The fault has happened: a live process, which had not come to its end.
        assert ended.code == -signal.SIGKILL, ended
        return ended

    def stop(self, arguments: Sequence[object], where: Point) -> Ended:
        """Have a command stand still at its point, holding what it holds."""
        names = [str(argument) for argument in arguments]
        ended = Ended(
            **self._ask(do="start", arguments=names, point=where, signal=int(signal.SIGSTOP))
        )
        assert ended.stopped, ended
        assert ended.at is not None
        return ended

    def begin(self, *arguments: object) -> int:
        """Start a command without waiting for it; its process."""
        names = [str(argument) for argument in arguments]
        return int(self._ask(do="start", arguments=names, wait=False)["pid"])

    def end(self, pid: int, number: int | None = None) -> Ended:
        """Send a command the signal, if any, and wait for its end."""
        return Ended(**self._ask(do="signal", pid=pid, signal=number))

    def close(self) -> None:
        """End the server."""
        self._server.communicate()

    @staticmethod
    def empty(folder: Path) -> None:
        """Remove what a folder holds."""
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @staticmethod
    def copy(folder: Path) -> Path:
        """A copy beside it, in the place of an earlier one."""
        other = folder.with_name(f"{folder.name}-copy")
        shutil.rmtree(other, ignore_errors=True)
        return Path(shutil.copytree(folder, other))

    @staticmethod
    def places(calls: Sequence[str], count: int, dice: random.Random) -> Sequence[Point]:
        """So many points before or after different calls; the commit is among them."""
        commit = [n for n, call in enumerate(calls) if call.startswith(("link", "replace"))][-1:]
        numbers = [*commit, *dice.sample(range(len(calls)), min(count - len(commit), len(calls)))]
        return [(number, dice.choice(("before", "after"))) for number in numbers][:count]

    @staticmethod
    def files(folder: Path) -> dict[str, bytes]:
        """All files below a folder but those of ``log/``, which tells of times and hosts."""
        found = {
            str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()
        }
        return {
            name: path.read_bytes() for name, path in found.items() if "/log/" not in f"/{name}"
        }

    @staticmethod
    def passages(collection: Path, number: int | None = None) -> dict[str, str]:
        """Id to text of what a manifest shows, once each, as its index finds them too."""
        snapshot = Collection(collection).snapshot(number)
        rows = [row for batch in snapshot.passages() for row in batch.to_pylist()]
        found = {row["id"]: row["text"] for row in rows}
        assert len(found) == len(rows) == len(snapshot)
        _, docs, _ = snapshot.index("lexical").search(["apple"], len(rows) + 9, keep=snapshot.keep)
        assert sorted(snapshot.rows(docs, ["id"])["id"].to_pylist()) == sorted(found)
        return found


@pytest.fixture(scope="session")
def jobs() -> Iterator[Jobs]:
    """The server of jobs."""
    server = Jobs()
    yield server
    server.close()


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Jobs, Path, Path]]:
    """A server of jobs that alone has a file system of 6 MB; its path there and from here."""
    folder = tmp_path_factory.mktemp("disk")
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    try:
        server = Jobs(*unshare, arguments=(str(folder), "6m"))
    except (OSError, RuntimeError):
        pytest.skip("a small file system can be mounted only where unshare and tmpfs are allowed")
    yield server, folder, Path(f"/proc/{server.pid}/root{folder}")
    server.close()
