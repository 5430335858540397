"""YAML files as trees with positions: what is read, and what is refused."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import InvalidFile
from rag.pipelines.report import Report
from rag.pipelines.yaml_nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, parse

quick = settings(max_examples=100, deadline=None)  # a busy machine has no deadlines

# YAML 1.1 reads 1e3 as a text and so writes the text 1e3 without quotes; for us it is a number.
EXPONENT = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+")
# PyYAML writes U+0085, a line break to it, so that not even its own reader gets it back.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x85"), max_size=12).filter(
    lambda text: "${" not in text and not EXPONENT.fullmatch(text)
)
plain_words = st.sampled_from(
    [
        "yes",
        "No",
        "on",
        "014",
        "0x1f",
        "1_000",
        "1:30",
        "2020-01-01",
        "<<",
        "=",
        "~",
        ".5",
        "1.",
        "null",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | plain_words
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def read(text: str | bytes) -> tuple[Node, list[str]]:
    """The tree, and the problems as ``line:column: key: message``."""
    report = Report("f")
    root = parse(text.encode() if isinstance(text, str) else text, report)
    return root, [str(problem).removeprefix("f:") for problem in report.problems]


def refused(text: str | bytes) -> list[str]:
    """What is said of a file that cannot be read to its end."""
    with pytest.raises(InvalidFile) as caught:
        read(text)
    return [str(problem).removeprefix("f:") for problem in caught.value.problems]


def same(left: Any, right: Any) -> bool:
    """Equal, types included; NaN equals NaN."""
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


@quick
@given(st.dictionaries(texts, values, max_size=5), st.sampled_from([None, True, False]))
def test_what_a_dumper_writes_is_read_back(data: dict[str, Any], flow: bool | None) -> None:
    text = yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True, sort_keys=False)
    root, problems = read(text)
    assert problems == []
    assert same(root.plain(), data)
    assert same(root.plain(), yaml.safe_load(text))


@quick
@given(st.dictionaries(texts, values, max_size=5))
def test_json_is_read_as_it_is(data: dict[str, Any]) -> None:
    try:
        text = json.dumps(data, allow_nan=False)
    except ValueError:
        return
    root, problems = read(text)
    assert problems == []
    assert same(root.plain(), data)


names = st.from_regex(r"k[a-z]{0,6}", fullmatch=True)
trees = st.recursive(
    st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)


@quick
@given(st.dictionaries(names, trees, min_size=1, max_size=4), st.sampled_from([None, True, False]))
def test_positions_point_to_the_keys_and_the_values(data: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(data, default_flow_style=flow, width=20)
    lines = text.split("\n")

    def at(place: tuple[int, int]) -> str:
        return lines[place[0] - 1][place[1] - 1 :]

    def check(node: Node) -> None:
        if isinstance(node.value, dict):
            for key, place in node.keys.items():
                assert at(place).startswith(key)
        if isinstance(node.value, int):
            assert at(node.place).startswith(json.dumps(node.value))
        for child in node.children:
            check(child)

    check(read(text)[0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2020-01-01", "2020-01-01"),
        ("1:30", "1:30"),
        ("014", "014"),
        ("0o14", "0o14"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        ("-.5", -0.5),
        ("+7", 7),
        ("-.inf", -math.inf),
        ("True", True),
        ("~", None),
        ("", None),
        ("y", "y"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("! 5", "5"),
        ("!!null ''", None),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    root, problems = read(f"a: {text}")
    assert problems == []
    assert same(root.plain(), {"a": value})


@pytest.mark.parametrize("word", ["yes", "No", "ON", "off"])
def test_the_words_that_yaml_guesses_at_are_refused(word: str) -> None:
    _, problems = read(f"a: {{b: {word}}}")
    assert problems[0].startswith(f"1:8: a.b: found {word}; write true or false, or")
    assert read(f"{word}: '{word}'")[0].plain() == {word: word}


TWICE = """\
1:11: a.b: the key 'b' stands twice (first at line 1, column 5)
2:1: a: the key 'a' stands twice (first at line 1, column 1)"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {b: 1, b: 2}\na: 3", TWICE),
        ("1: a\ntrue: b\n~: c", "1:1: the key 1 is not\n2:1: the key true is\n3:1: the key ~ is"),
        ("? [a]\n: b", "1:3: a key must be a text"),
        ("a: &x {b: 1}\nc: {<<: *x}", "2:5: c: the merge key << is not supported"),
        ("a: !!python/object/apply:os.system [ls]", "1:4: a: the tag '!!python/object/apply:os.s"),
        ("a: !!timestamp 2020-01-01", "1:4: a: the tag '!!timestamp' is not known; remove it"),
        ("- !!binary aa\n- !mine {}", "1:3: [0]: the tag\n2:3: [1]: the tag '!mine'"),
        ("!!python/none a: 1", "1:1: a key has the tag"),
        ("a: !!int b", "1:4: a: 'b' is no !!int"),
        ("a: !!seq b", "1:4: a: the tag '!!seq'"),
        ("a: *b", "1:4: a: no anchor &b stands before"),
        (f"a: {'9' * 6000}", "1:4: a: a number of 6000 digits"),
        ('a: "\\ud800"', "1:4: a: half of a surrogate pair"),
        ('"\\udfff": 1', "1:1: half of a surrogate pair"),
    ],
)
def test_mistakes_that_do_not_end_the_reading(text: str, said: str) -> None:
    _, problems = read(text)
    for problem, start in zip(problems, said.split("\n"), strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "1:1: the file is empty"),
        (b"# nothing\n", "1:1: the file is empty"),
        (b"a: b\nc: \xff", "2:4: byte 0xff is not UTF-8"),
        ("a: 1".encode("utf-16"), "1:1: byte 0xff is not UTF-8"),
        (b"a: b\r\nc: d\x00", "2:5: the character U+0000"),
        (b"a:\n\tb: 1", "2:1: YAML syntax: found character '\\t' that cannot start any token"),
        (b"a: {b: 1\nc: 2", "2:2: YAML syntax: expected ',' or '}', but got ':'"),
        (b"a: [1, 2", "1:9: YAML syntax:"),
        (b"a: 'b", "1:6: YAML syntax: found unexpected end of stream"),
        (b"a: b: c", "1:5: YAML syntax: mapping values are not allowed here"),
        (b"- {a: ${B}}", "1:8: YAML syntax: "),
        (b'a: "\\U00110000"', "1:"),
        (b"%YAML 9.1\n---\na: 1", "1:1: YAML syntax: found incompatible YAML document"),
        (b"a: 1\n---\nb: 2", "2:1: a second document"),
        (b"a: &a [*a]", "1:8: the alias *a stands inside what it repeats"),
        (b"&a : {b: &b {c: *b}}", "1:17: the alias *b stands inside what it repeats"),
        (b"[" * 10_000, f"1:{MAX_DEPTH + 1}: nested more than {MAX_DEPTH} levels"),
        (b"- " * 10_000, f"1:{2 * MAX_DEPTH + 1}: nested more than {MAX_DEPTH} levels"),
        (b"{a: " * 10_000, f"1:{4 * MAX_DEPTH + 1}: nested more than {MAX_DEPTH} levels"),
        (b"? " * 10_000, "1:"),
        (b"[" + b"a," * MAX_NODES + b"]", f"1:{2 * MAX_NODES}: more than 10,000 values"),
        (b"a" * (MAX_BYTES + 1), "1:1: the file is larger than 1,000,000 bytes"),
        (b"a: " + b"&a " * 1000 + b"b", "1:7: YAML syntax:"),
    ],
)
def test_hostile_and_broken_files_are_refused_at_once(text: bytes, said: str) -> None:
    start = time.process_time()
    assert refused(text)[-1].startswith(said)
    assert time.process_time() - start < 5  # each takes milliseconds; a busy machine gets seconds


def test_aliases_that_multiply_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    start = time.process_time()
    assert re.match(r"\d+:\d+: more than 10,000 values", refused("\n".join(lines))[-1])
    assert time.process_time() - start < 1


def test_aliases_that_nest_are_refused() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 99)]
    assert "levels deep" in refused("\n".join(lines))[-1]


def test_an_alias_repeats_a_value_at_its_own_place() -> None:
    root, problems = read("a: &x {b: 1}\nc: *x\nd: &x 2\n&k e: *k\nf: *x")
    assert problems == []
    assert root.plain() == {"a": {"b": 1}, "c": {"b": 1}, "d": 2, "e": "e", "f": 2}
    assert [child.place for child in root.children] == [(1, 4), (2, 4), (3, 4), (4, 7), (5, 4)]


def test_a_byte_order_mark_is_passed_over() -> None:
    root, _ = read("\ufeffa: 1".encode())
    assert (root.plain(), root.keys) == ({"a": 1}, {"a": (1, 1)})


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_TEST_N", "7")
    monkeypatch.setenv("RAG_TEST_T", "x: [1]")
    text = """
        a: ${RAG_TEST_N}
        b: k=${RAG_TEST_N}-${RAG_TEST_T}
        c: ["${RAG_TEST_N}", "${RAG_TEST_T}"]
        d: $${RAG_TEST_N} costs $5
        e: !!str ${RAG_TEST_N}
    """
    root, problems = read(text)
    assert problems == []
    assert root.plain() == {
        "a": 7,
        "b": "k=7-x: [1]",
        "c": [7, "x: [1]"],
        "d": "${RAG_TEST_N} costs $5",
        "e": "7",
    }


def test_variables_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_TEST_N", raising=False)
    _, problems = read("a: ${RAG_TEST_N}\nb: x ${A:-b}\nc: ${open\nd: ${}")
    assert problems[0] == "1:4: a: the environment variable RAG_TEST_N is not set"
    assert [p.split(" is no environment variable; write ${NAME}")[0] for p in problems[1:]] == [
        "2:4: b: '${A:-b}'",
        "3:4: c: '${open'",
        "4:4: d: '${}'",
    ]


TOKENS = (
    "*a,&a ,!!str ,!!int ,<<: ,[,],{,},- ,: ,\n,  ,${X},$${,? ,null,yes,a,1e9,---\n,#,%,@,\\ud800"
)
pieces = st.lists(st.sampled_from([*TOKENS.split(","), *"|\t\0\"',"]), max_size=25)


@quick
@given(pieces)
def test_whatever_a_file_holds_it_is_read_or_refused(tokens: list[str]) -> None:
    report = Report("f")
    try:
        root = parse("".join(tokens).encode(), report)
    except InvalidFile as error:
        assert error.problems
    else:
        json.dumps(root.plain())
