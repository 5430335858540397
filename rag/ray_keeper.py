"""A process that ends our own Ray cluster after the process that started it, even a killed one.

``python ray_keeper.py FOLDER OWNER`` waits until its standard input closes. Then it ends the
processes of this user that name FOLDER in their command line or their environment, except OWNER,
and removes FOLDER. It needs nothing but the standard library, so it starts in a moment.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def main(folder: str, owner: int) -> None:
    """Wait for the end of the owner, then end and remove what it left."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    spared = {os.getpid(), owner}
    until = time.monotonic() + 20
    while (left := set(_processes(folder)) - spared) and time.monotonic() < until:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for _ in range(3):  # a log may be written while it is removed
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        time.sleep(0.2)


def _processes(folder: str) -> Iterator[int]:
    """The processes of this user that belong to the cluster in ``folder``."""
    name = f"{folder}/".encode()
    if not os.path.isdir("/proc/self"):
        listing = subprocess.run(
            ["ps", "-axww", "-o", "pid=,command="], capture_output=True, check=False
        )
        for line in listing.stdout.splitlines():
            if name in line:
                yield int(line.split()[0])
        return
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                if path.stat().st_uid != os.getuid() or _is_dead(path):
                    continue
                if any(name in (path / part).read_bytes() for part in ("cmdline", "environ")):
                    yield int(path.name)


def _is_dead(process: Path) -> bool:
    """Whether it has ended and only waits for its parent to notice."""
    return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "Z"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
