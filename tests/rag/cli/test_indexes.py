"""``rag index`` with encoders and factories: several indexes at once, and others added later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("faiss")
pytest.importorskip("scipy.sparse")

from rag import Collection
from tests.rag.drawn_encoders import install

Rag = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return install(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    lines = (json.dumps({"id": f"p{n}", "text": f"apple birch {n}"}) for n in range(60))
    file.write_text("\n".join(lines))
    return file


def facts(rag: Rag, path: Path) -> dict[str, Any]:
    code, out, err = rag("info", path, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)["indexes"]
    return found


def test_several_at_once(rag: Rag, source: Path, tmp_path: Path, encoded: list[str]) -> None:
    out = tmp_path / "c"
    code, _, err = rag(
        "index", source, "--out", out, "--index", "lexical", "--index", "dense", "--encoder",
        "drawn", "--index", "sparse", "--encoder", "terms", "--index", "fast=dense", "--encoder",
        "drawn", "--factory", "Flat", "--factory", "IVF8,Flat",
    )  # fmt: skip
    assert code == 0, err
    assert len(encoded) == 2 * 60  # by two encoders; the dense indexes share
    found = facts(rag, out)
    settings = {name: entry["settings"] for name, entry in found.items()}
    assert [found[name]["type"] for name in sorted(found)] == [
        "dense",
        "dense",
        "lexical",
        "sparse",
    ]
    assert settings["dense"]["factory"] == "Flat" and settings["fast"]["factory"] == "IVF8,Flat"
    assert settings["sparse"]["encoder"] == "terms"
    for pipeline in ("dense", "sparse", "hybrid"):
        file = tmp_path / f"{pipeline}.yaml"
        stages = {
            "dense": "- dense: {index: dense}",
            "sparse": "- sparse",
            "hybrid": "- bm25: {into: a}\n- dense: {index: fast, into: b}\n- fuse: {of: [a, b]}",
        }
        file.write_text(f"kind: pipeline\nstages:\n{stages[pipeline]}\n")
        code, text, err = rag("search", "apple 7", "-c", out, "-p", file, "--json")
        assert code == 0 and json.loads(text)[0]["id"] == "p7", err


def test_added_later_and_trained_anew(
    rag: Rag, source: Path, tmp_path: Path, encoded: list[str]
) -> None:
    out = tmp_path / "c"
    assert rag("index", source, "--out", out)[0] == 0
    code, _, err = rag("index", out, "--index", "dense", "--encoder", "drawn")
    assert code == 0 and len(encoded) == 60, err
    encoded.clear()
    command = ("index", out, "--index", "ivf=dense", "--encoder", "drawn", "--factory", "IVF8,Flat")
    assert rag(*command)[0] == 0
    assert "nothing to do" in rag(*command)[1]
    more = tmp_path / "more.jsonl"
    more.write_text('{"id": "new", "text": "cedar"}\n')
    assert rag("add", out, more)[0] == 0
    assert encoded == ["cedar"]
    before = Collection.open(out).snapshot().manifest.indexes["ivf"].trained
    assert "nothing to do" in rag(*command)[1]
    assert rag(*command, "--retrain")[0] == 0
    assert Collection.open(out).snapshot().manifest.indexes["ivf"].trained != before
    assert encoded == ["cedar"]
    code, _, err = rag("index", source, "--out", out, "--retrain")
    assert code == 2 and "--retrain" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--index", "dense"), "which encoder"),
        (("--index", "dense", "--index", "dense", "--encoder", "drawn"), "NAME=dense"),
        (("--index", "lexical", "--encoder", "drawn"), "--index dense"),
        (("--index", "dense", "--encoder", "drawn", "--encoder", "drawn2"), "stands there 2 times"),
        (("--index", "dense", "--encoder", "drawn", "--factory", "IVF100,Flat"), "100"),
        (("--index", "dense", "--encoder", "drawn", "--factory", "Nothing"), "Nothing"),
        (("--index", "dense", "--encoder", "drawn", "--factory", ""), "factory"),
        (("--index", "dense", "--encoder", "terms"), "dense vectors"),
        (("--index", "sparse", "--encoder", "drawn"), "vocabulary"),
        (("--index", "a/b=dense", "--encoder", "drawn"), "a/b"),
        (("--index", "a=dens", "--encoder", "drawn"), "'dense'"),
    ],
)
def test_what_is_refused(
    rag: Rag, source: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, _, err = rag("index", source, "--out", tmp_path / "c", *arguments)
    assert code == 2
    assert said in err
    assert not list((tmp_path / "c").glob("manifest/*"))
