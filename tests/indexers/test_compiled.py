"""Where compiled kernels are kept, and what is said about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rag import compiled

ROOT = Path(__file__).parents[2]


def test_the_cache_folder_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAG_CACHE", str(tmp_path / "own"))
    assert compiled.user_cache() == tmp_path / "own"
    monkeypatch.delenv("RAG_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert compiled.user_cache() == tmp_path / "Library" / "Caches" / "ragstone"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert compiled.user_cache() == tmp_path / ".cache" / "ragstone"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert compiled.user_cache() == tmp_path / "xdg" / "ragstone"


def test_a_folder_that_others_can_write_to_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = compiled.usable(tmp_path / "fine")
    assert folder is not None and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    assert compiled.usable(tmp_path / "fine") is None
    assert "others can write" in caplog.text and "RAG_CACHE" in caplog.text
    folder.chmod(0o700)
    (tmp_path / "fine").chmod(0o777)
    assert compiled.usable(tmp_path / "fine") is None


def test_a_folder_that_cannot_be_made_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert compiled.usable(tmp_path / "file") is None
    assert "cannot be written" in caplog.text


KERNELS = """
from rag.compiled import kernel

@kernel
def add(a: int, b: int) -> int:
    return a + b
"""


def test_code_is_kept_for_the_next_process_and_compiling_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(KERNELS)
    code = "import sums, numba; print(sums.add(2, 3), sums.add(2.5, 3), numba.config.CACHE_DIR)"

    def run(cache: Path) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "RAG_CACHE": str(cache), "PYTHONPATH": f"{ROOT}:{tmp_path}"}
        env.pop("NUMBA_CACHE_DIR", None)
        return subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )

    first, second = run(tmp_path / "cache"), run(tmp_path / "cache")
    assert first.stdout == second.stdout == "5 5.5 \n"
    assert first.stderr.count("compiling") == 1 and second.stderr == ""
    assert not list(tmp_path.glob("__pycache__/*.nb*")) and list(tmp_path.glob("cache/**/*.nbc"))

    (tmp_path / "sums.py").write_text(KERNELS.replace("a + b", "a - b"))
    assert run(tmp_path / "cache").stdout == "-1 -0.5 \n"
    uncached = run(tmp_path / "sums.py")
    assert uncached.stdout == "-1 -0.5 \n" and "are not kept" in uncached.stderr


def test_a_kernel_calls_kernels_of_its_folder_and_is_made_again_when_they_change(
    tmp_path: Path,
) -> None:
    (tmp_path / "_kernels_sums.py").write_text(KERNELS)
    text = KERNELS.replace("import kernel", "import kernel\nfrom _kernels_sums import add")
    text = text.replace("def add", "def twice").replace("return a + b", "return add(a, b) * 2")
    (tmp_path / "_kernels_twice.py").write_text(text)

    def run() -> str:
        env = {**os.environ, "RAG_CACHE": str(tmp_path / "cache")}
        env["PYTHONPATH"] = f"{ROOT}:{tmp_path}"
        code = "import _kernels_twice; print(_kernels_twice.twice(2, 3))"
        return subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        ).stdout

    assert run() == "10\n"
    (tmp_path / "_kernels_sums.py").write_text(KERNELS.replace("a + b", "a - b"))
    assert run() == "-2\n"
