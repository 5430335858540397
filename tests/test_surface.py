"""What a user meets first: the names of ``rag``, the cost of importing it, and the layout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rag

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("eval", "indexers", "pipelines", "readers", "retrievers")


def test_import_loads_no_heavy_package() -> None:
    heavy = {"faiss", "numba", "numpy", "pyarrow", "ray", "torch", "transformers"}
    program = f"import sys, rag; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_public_names_are_sorted_and_importable() -> None:
    assert list(rag.__all__) == sorted(set(rag.__all__))
    for name in rag.__all__:
        assert getattr(rag, name) is not None
    assert set(rag.__all__) <= set(dir(rag))


def test_an_unknown_name_is_an_attribute_error() -> None:
    name = "no_such_name"
    with pytest.raises(AttributeError, match=name):
        getattr(rag, name)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_under_rag(room: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def imports(name: str) -> bool:
        command = [sys.executable, "-c", f"import {name}"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        return done.returncode == 0

    assert imports(f"rag.{room}")
    assert not imports(room)


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_has_a_relative_link(room: str) -> None:
    link = ROOT / "rag" / room
    assert link.is_symlink()
    assert os.readlink(link) == f"../{room}"
    assert not (ROOT / room).is_symlink()


def cpu_seconds(*command: str) -> float:
    """User and system time of one run of ``command``, which has to succeed."""
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_costs_less_than_twenty_interpreter_starts() -> None:
    # The only test that measures time: a ratio of CPU times, so that a busy machine passes too.
    start = min(cpu_seconds(sys.executable, "-c", "pass") for _ in range(3))
    helped = min(cpu_seconds(sys.executable, "-m", "rag.cli", "--help") for _ in range(3))
    assert helped < 20 * start
