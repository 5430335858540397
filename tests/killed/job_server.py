"""Runs commands of ``rag`` in forked children and ends them where it is told.

A process of its own that has imported what commands need, so that a child costs its job and no
more. It reads one JSON object a line and answers with one:

    {"do": "start", "arguments": [...], "point": [7, "before", "rename", "x"], "signal": 9}
    {"do": "start", "arguments": [...], "after": 0.05}
    {"do": "signal", "pid": 123, "signal": 18, "wait": false}

``point`` counts from 0 the calls in ``CALLS`` that the child makes, those of this name with this
text if they are given: before or after that one it sends itself the signal. ``after`` are seconds
after which it is killed from outside.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

CALLS: tuple[tuple[ModuleType, str], ...] = (
    *((os, name) for name in ("fsync", "link", "rename", "replace", "rmdir", "unlink")),
    (fcntl, "flock"),
)
"""What changes folders, makes them last, or takes a lock: between these nothing is seen."""


class Child:
    """One running command, as the server sees it."""

    def __init__(self, request: dict[str, Any]) -> None:
        """Fork it."""
        self.files = [nameless_file() for _ in range(3)]
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            run_child(request, *self.files)

    def kill_after(self, seconds: float) -> None:
        """Kill it then, if it has not ended."""
        time.sleep(max(0.0, self.began + seconds - time.monotonic()))
        os.kill(self.pid, signal.SIGKILL)  # one that has ended is there until it is waited for

    def wait(self) -> dict[str, Any]:
        """What became of it: it has ended, or stopped itself."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        texts = [os.pread(file, 1 << 24, 0).decode() for file in self.files]
        told = [json.loads(line) for line in texts[2].splitlines()]
        for file in () if os.WIFSTOPPED(status) else self.files:
            os.close(file)
        return {
            "pid": self.pid,
            "stopped": os.WIFSTOPPED(status),
            "code": None if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - self.began,
            "out": texts[0],
            "err": texts[1],
            "at": next((entry["at"] for entry in told if "at" in entry), None),
            "calls": next((entry["calls"] for entry in told if "calls" in entry), None),
        }


def nameless_file() -> int:
    """An open file that is gone when nobody has it open."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def run_child(request: dict[str, Any], out: int, err: int, told: int) -> None:
    """The command in this process, which it ends."""
    code = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        calls = watch(request.get("point"), request.get("signal", signal.SIGKILL), told)
        sys.argv = ["rag", *request["arguments"]]
        from rag.cli import main

        try:
            main()
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 0
        sys.stdout.flush()
        sys.stderr.flush()
        # Whoever has come so far has finished, also if a signal still ends it.
        os.write(told, (json.dumps({"calls": calls}) + "\n").encode())
    except BaseException:  # noqa: BLE001 - a fork must never come back into the server
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def watch(point: list[Any] | None, number: int, told: int) -> list[str]:
    """Count the calls, and send this process the signal at the point; the list grows with them."""
    calls: list[str] = []
    place, moment, wanted, part = [*(point or [-1, ""]), "", ""][:4]
    fitting = 0

    def end(text: str, when: str) -> None:
        os.write(told, (json.dumps({"at": f"{when} {text}"}) + "\n").encode())
        os.kill(os.getpid(), number)

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal fitting
            text = " ".join([name, *(shown(argument) for argument in arguments)])
            calls.append(text)
            fits = name.startswith(wanted) and part in text
            here = fits and fitting == place
            fitting += fits
            if here and moment == "before":
                end(text, "before")
            try:
                return real(*arguments, **more)
            finally:
                if here and moment == "after":
                    end(text, "after")

        return call

    for module, name in CALLS:
        setattr(module, name, watched(name, getattr(module, name)))
    return calls


def shown(argument: object) -> str:
    """A path or an open file by its path, anything else as it is."""
    if isinstance(argument, int):
        link = f"/proc/self/fd/{argument}"
        return os.readlink(link) if os.path.exists(link) else str(argument)
    return str(argument.name) if isinstance(argument, io.TextIOWrapper) else str(argument)


def warm_up() -> None:
    """Import and compile once what the children need (Arrow starts its threads anew in them)."""
    import rag.cli.app  # noqa: F401
    from rag import Collection, Pipeline

    with tempfile.TemporaryDirectory() as folder:
        rows = [{"id": name, "text": f"apple {name}."} for name in "abc"]
        collection, _ = Collection.build(rows, Path(folder, "c"), segment_rows=2)
        collection.delete(["a"])
        collection.compact()
        with Pipeline.load("bm25-extract", collection=collection) as pipeline:
            pipeline.run(["apple"])


def serve() -> None:
    """Answer requests until there are none."""
    warm_up()
    children: dict[int, Child] = {}
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            child = Child(request)
            children[child.pid] = child
        else:
            child = children[request["pid"]]
            if request.get("signal") is not None:
                os.kill(child.pid, request["signal"])
        if request.get("after") is not None:
            child.kill_after(request["after"])
        answer = child.wait() if request.get("wait", True) else {"pid": child.pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:  # in a namespace of its own: a file system that is this large
        folder, size = Path(sys.argv[1]), sys.argv[2]
        if os.system(f"mount -t tmpfs -o size={size} none '{folder}'"):
            sys.exit("no tmpfs can be mounted here")
    serve()
