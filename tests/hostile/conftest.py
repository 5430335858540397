"""What the tests of hostile and broken input share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_sync() -> Iterator[None]:
    """Only a machine that loses power needs what is synced; waiting for it takes most time here."""
    from rag.collection import folders, manifest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "sync", lambda path: None)
        patch.setattr(manifest, "sync", lambda path: None)
        yield


@pytest.fixture(scope="session")
def write_rows() -> Callable[[Path, list[dict[str, Any]]], Path]:
    """Writes documents as JSON lines."""

    def write(path: Path, rows: list[dict[str, Any]]) -> Path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
