"""YAML that is no pipeline and no index, through ``rag validate`` and ``rag index``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rag.collection import manifest

Rag = Callable[..., tuple[int, str, str]]

BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (n, n, b", ".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 107)
)

FILES: dict[str, tuple[bytes, str]] = {
    # the bytes, what follows "FILE:" in the message
    "nothing": (b"", r"1:1: the file is empty"),
    "a comment": (b"# nothing\n", r"1:1: the file is empty"),
    "a text": (b"bm25", r"1:1: "),
    "a list": (b"- bm25\n", r"1:1: "),
    "NUL bytes": (bytes(1000), r"1:1: "),
    "a NUL in a text": (b"kind: pipe\x00line\n", r"1:\d+: "),
    "a control character": (b"kind: pipe\x07line\n", r"1:\d+: "),
    "Latin-1": (b"kind: pip\xe9line\n", r"1:\d+: .*UTF-8"),
    "UTF-16": ("kind: pipeline\n".encode("utf-16"), r"1:1: "),
    "half a surrogate pair": (b'kind: pipeline\nname: "\\ud800"\nstages: [bm25]\n', r"2:\d+: "),
    "a tab": (b"kind: pipeline\nstages:\n\t- bm25\n", r"3:\d+: .*spaces, not tabs"),
    "an open list": (b"kind: pipeline\nstages: [bm25\n", r"\d:\d+: "),
    "an open text": (b'kind: pipeline\nstages: ["bm25]\n', r"\d:\d+: "),
    "bad indentation": (b"kind: pipeline\n  stages:\n", r"2:\d+: "),
    "two documents": (b"kind: pipeline\nstages: [bm25]\n---\nkind: pipeline\n", r"3:1: a second"),
    "a bomb of aliases": (BOMB, r"\d+:\d+: .*more than 10,000 values"),
    "an alias of itself": (b"kind: &k [*k]\n", r"1:\d+: the alias \*k stands inside"),
    "an alias of nothing": (b"kind: *nothing\n", r"1:\d+: "),
    "deep lists": (b"[" * 100_000, r"1:\d+: nested more than 50 levels"),
    "deep mappings": (b"{a: " * 5_000, r"1:\d+: nested more than 50 levels"),
    "deep blocks": (b"- " * 5_000 + b"x", r"1:\d+: nested more than 50 levels"),
    "too many values": (b"a: [" + b"x," * 60_000 + b"]", r"1:\d+: .*more than 10,000 values"),
    "too large": (b"#" * 1_100_000, r"1:1: the file is larger than 1,000,000 bytes"),
    "a python object": (b"kind: !!python/object/apply:os.system [id]\n", r"1:\d+: "),
    "a python name": (b"kind: !!python/name:os.system\n", r"1:\d+: "),
    "a tag of one's own": (b"kind: !mine pipeline\n", r"1:\d+: "),
    "binary": (b"kind: !!binary aGk=\n", r"1:\d+: "),
    "a set": (b"kind: !!set {a, b}\n", r"1:\d+: "),
    "a key twice": (b"kind: pipeline\nkind: index\nstages: [bm25]\n", r"2:1: .*"),
    "a merge key": (b"kind: pipeline\n<<: {a: 1}\nstages: [bm25]\n", r"2:\d+: "),
    "a list as key": (b"? [a]\n: b\n", r"1:\d+: "),
    "no kind": (b"stages: [bm25]\n", r"1:1: .*kind"),
    "an unknown kind": (b"kind: pipelin\nstages: [bm25]\n", r"1:7: .*'pipeline'"),
    "an unknown key": (b"kind: pipeline\nstage: [bm25]\n", r"2:1: .*'?stages'?"),
    "no stages": (b"kind: pipeline\n", r"1:1: .*stages"),
    "stages that are none": (b"kind: pipeline\nstages: 7\n", r"2:9: .*stages"),
    "an empty list of stages": (b"kind: pipeline\nstages: []\n", r"2:9: .*stages"),
    "an unknown stage": (b"kind: pipeline\nstages: [bm52]\n", r"2:10: .*'bm52'.*'bm25'"),
    "a stage with two names": (b"kind: pipeline\nstages: [{bm25: {}, reorder: {}}]\n", r"2:1\d: "),
    "an unknown setting": (b"kind: pipeline\nstages: [{bm25: {topk: 5}}]\n", r"2:\d+: .*'?top_k"),
    "a setting out of range": (b"kind: pipeline\nstages: [{bm25: {top_k: -1}}]\n", r"2:\d+: .*-1"),
    "a text for a number": (b"kind: pipeline\nstages: [{bm25: {top_k: many}}]\n", r"2:\d+: .*many"),
    "a number too large": (b"kind: pipeline\nstages: [{bm25: {k1: 1e999}}]\n", r"2:\d+: "),
    "not a number": (b"kind: pipeline\nstages: [{bm25: {k1: .nan}}]\n", r"2:\d+: "),
    "an unset variable": (
        b'kind: pipeline\nname: "${RAG_NOT_SET}"\nstages: [bm25]\n',
        r"2:\d+: .*SET",
    ),
    "a template": (b"kind: pipeline\nstages: [{bm25: {top_k: '{{ 7*7 }}'}}]\n", r"2:\d+: "),
    "an import path": (b"kind: pipeline\nstages: [os.system]\n", r"2:\d+: .*'os.system'"),
    "a path as a stage": (b"kind: pipeline\nstages: [../../etc/passwd]\n", r"2:\d+: "),
    "no gguf file": (
        b"kind: pipeline\nstages:\n- bm25\n- generate: {backend: {llama_cpp: {model: 7}}}\n",
        r"4:\d+: ",
    ),
    "a column that nobody writes": (b"kind: pipeline\nstages: [reorder]\n", r"2:\d+: .*documents"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_pipeline_is_refused_at_line_and_column(case: str, rag: Rag, tmp_path: Path) -> None:
    data, pattern = FILES[case]
    path = tmp_path / "p.yaml"
    path.write_bytes(data)
    code, out, err = rag("validate", path)
    assert code == 2, (out, err)
    found = [
        line.removeprefix(f"{path}:") for line in out.splitlines() if line.startswith(f"{path}:")
    ]
    assert any(re.match(pattern, line) for line in found), out
    assert len(out) < 3000


@pytest.mark.parametrize("case", list(FILES)[:31])
def test_an_index_file_is_refused_at_line_and_column(case: str, rag: Rag, tmp_path: Path) -> None:
    path = tmp_path / "i.yaml"
    path.write_bytes(FILES[case][0].replace(b"pipeline", b"index"))
    code, out, err = rag("index", path, "--out", tmp_path / "c")
    assert code == 2, (out, err)
    assert re.search(re.escape(f"{path}:") + r"\d+:\d+: ", err), err
    assert manifest.numbers(tmp_path / "c") == []


INDEX: dict[str, tuple[str, str]] = {
    "no source": ("kind: index\n", r"1:1: .*source"),
    "a source that is a text": ("kind: index\nsource: a.jsonl\n", r"2:9: "),
    "an unknown type": ("kind: index\nsource: {type: jsonnl, path: a}\n", r"2:\d+: .*'?jsonl"),
    "no path": ("kind: index\nsource: {type: jsonl}\n", r"2:\d+: .*path"),
    "an unknown key of the source": (
        "kind: index\nsource: {type: jsonl, path: a, feilds: {}}\n",
        r"2:\d+: .*fields",
    ),
    "a field of an unknown type": (
        "kind: index\nsource: {type: jsonl, path: a}\nfields: {year: date}\n",
        r"3:\d+: .*date",
    ),
    "a field with a taken name": (
        "kind: index\nsource: {type: jsonl, path: a}\nfields: {text: str}\n",
        r"3:\d+: .*text",
    ),
    "a split that never advances": (
        "kind: index\nsource: {type: jsonl, path: a}\nsplit: {by: words, size: 5, overlap: 5}\n",
        r"3:\d+: .*overlap",
    ),
    "a split of nothing": (
        "kind: index\nsource: {type: jsonl, path: a}\nsplit: {by: words, size: 0}\n",
        r"3:\d+: .*size",
    ),
    "an unknown index": (
        "kind: index\nsource: {type: jsonl, path: a}\nindexes: {x: {type: lexicl}}\n",
        r"3:\d+: .*'?lexical",
    ),
    "an unknown stemmer": (
        "kind: index\nsource: {type: jsonl, path: a}\nindexes: {x: {type: lexical, stemmer: q}}\n",
        r"3:\d+: .*'?porter",
    ),
    "an index with a bad name": (
        "kind: index\nsource: {type: jsonl, path: a}\nindexes: {../x: {type: lexical}}\n",
        r"3:\d+: .*\.\./x",
    ),
}


@pytest.mark.parametrize("case", INDEX)
def test_a_setting_of_an_index_is_refused_at_its_place(case: str, rag: Rag, tmp_path: Path) -> None:
    text, pattern = INDEX[case]
    path = tmp_path / "i.yaml"
    path.write_text(text)
    code, out, err = rag("index", path, "--out", tmp_path / "c")
    assert code == 2, (out, err)
    assert re.search(re.escape(f"{path}:") + pattern, err), err
    assert manifest.numbers(tmp_path / "c") == []
