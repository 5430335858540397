"""What the tests of hostile and broken input share: the real command line, in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Rag = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session", autouse=True)
def no_sync() -> Iterator[None]:
    """Only a machine that loses power needs what is synced; waiting for it takes most time here."""
    from rag.collection import folders, manifest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "sync", lambda path: None)
        patch.setattr(manifest, "sync", lambda path: None)
        yield


@pytest.fixture
def rag(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rag:
    """The command line: its exit code and what it printed, never a traceback or a "defect"."""
    from rag.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rag", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "defect" not in err
        code = stopped.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.fixture(scope="session")
def write_rows() -> Callable[[Path, list[dict[str, Any]]], Path]:
    """Writes documents as JSON lines."""

    def write(path: Path, rows: list[dict[str, Any]]) -> Path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
