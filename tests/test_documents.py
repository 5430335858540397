"""The pages of docs/ that say what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from rag import registry

DOCS = Path(__file__).resolve().parents[1] / "docs"


def script(name: str) -> Any:
    """A script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_pipelines_has_every_stage_and_key_as_it_is() -> None:
    text = (DOCS / "pipelines.md").read_text("utf-8")
    assert text == script("stage_tables").page(text), "run: python docs/stage_tables.py"
    for group in ("stages", "backends"):
        for name in registry.BUILT_IN[group]:
            assert f"\n### `{name}`\n" in text
