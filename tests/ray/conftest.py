"""A cluster of three nodes on this machine, and what is left when the tests are done."""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
KINDS = {"drawn_dense": "DrawnDense", "drawn_sparse": "DrawnSparse", "faulty": "Faulty"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder run in one process of pytest-xdist, which alone starts clusters."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("ray"))


@dataclass
class Nodes:
    """A running cluster: its address, its folder, and what starts and kills its nodes."""

    address: str
    folder: Path
    environment: dict[str, str]
    cluster: Any

    def rag(self, *arguments: object, **more: Any) -> subprocess.Popen[str]:
        """The command line in a process of its own."""
        return self.python("-m", "rag.cli", *arguments, **more)

    def python(self, *arguments: object, **more: Any) -> subprocess.Popen[str]:
        """A Python process that can join."""
        command = [sys.executable, *map(str, arguments)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            command, env={**os.environ, **self.environment}, text=True, **pipes, **more
        )


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kinds of ``plugin_kinds`` are installed for this process and those that it starts."""
    from rag import registry

    home = tmp_path_factory.mktemp("plugin")
    info = home / "faulty-1.0.dist-info"
    info.mkdir()
    (home / "faulty_kinds.py").write_text((HERE / "plugin_kinds.py").read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    lines = [f"{name} = faulty_kinds:{cls}" for name, cls in KINDS.items()]
    (info / "entry_points.txt").write_text("\n".join(["[rag.indexes]", *lines, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        importlib.invalidate_caches()
        yield home
    for name in KINDS:
        registry._defined.pop(("indexes", name), None)
    sys.modules.pop("faulty_kinds", None)


@pytest.fixture(scope="module")
def nodes(plugin: Path, room: Path) -> Iterator[Nodes]:
    """Three nodes with one CPU each, which listen on the loopback interface only."""
    with started(plugin, 3) as found:
        yield found


class started:
    """A cluster of so many nodes; nothing of it is left afterwards."""

    def __init__(self, plugin: Path, count: int) -> None:
        self._count = count
        self.cluster: Any = None
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))
        token = self._folder / "token"
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        self._environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            # Where Cluster notes its address, for those who look for any cluster.
            "RAY_TMPDIR": str(self._folder),
            # Only for tests: see docs/ray.md. With it, all addresses are 127.0.0.1.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "PYTHONPATH": os.pathsep.join([str(plugin), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
        }
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Nodes:
        for name, value in self._environment.items():
            self._patch.setenv(name, value)
        forget_token()
        import ray._private.ray_constants
        from ray.cluster_utils import Cluster

        self._patch.setattr(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False)
        node = {"num_cpus": 1, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}
        head = {**node, "include_dashboard": False, "temp_dir": str(self._folder)}
        (self._folder / "ray").mkdir()
        try:
            self.cluster = Cluster(initialize_head=True, head_node_args=head)
            for _ in range(self._count - 1):
                self.cluster.add_node(**node)
        except BaseException:
            self.__exit__()
            raise
        address = self.cluster.address
        return Nodes(address, self._folder, self._environment, self.cluster)

    def __exit__(self, *error: object) -> None:
        import ray

        ray.shutdown()
        if self.cluster is not None:
            self.cluster.shutdown()
        self._patch.undo()
        forget_token()
        end_processes(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)


def end_processes(folder: Path) -> None:
    """End what a killed node has left."""
    for pid in processes_of(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def forget_token() -> None:
    from rag.ray_cluster import _forget_token

    _forget_token()


def processes_of(folder: Path | str) -> list[int]:
    """The living processes of a cluster, by the folder that they name."""
    from rag.ray_keeper import _processes

    return [pid for pid in _processes(str(folder)) if pid != os.getpid()]


@pytest.fixture(scope="session", autouse=True)
def room() -> Iterator[Path]:
    """A folder for all that clusters of these tests write; nothing is left in it, or running."""
    folder = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    token = Path.home() / ".ray" / "auth_token"
    had = token.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    left = [path.name for path in folder.iterdir() if path.name.startswith("ra")]
    running = processes_of(folder)
    end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)
    assert (left, running) == ([], [])
    assert token.exists() == had


Trees = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="session")
def trees() -> Trees:
    """The bytes of every file of a collection that is named by its manifest, by path."""

    def read(collection: Path) -> dict[str, bytes]:
        parts = ("segments", "indexes", "vectors", "trained")
        files = [file for part in parts for file in sorted((collection / part).rglob("*"))]
        return {str(f.relative_to(collection)): f.read_bytes() for f in files if f.is_file()}

    return read
