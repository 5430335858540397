"""What all tests share: the real command line, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

Rag = Callable[..., tuple[int, str, str]]


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
