"""A real llama.cpp server over HTTP, and servers that misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from rag.backend import Conversation, Reply, Session
from rag.batch import Batch
from rag.errors import BackendFailed, Cancelled, InvalidInput
from rag.models.gguf import gguf_file
from rag.ranking import Ranking
from rag.readers import Generate
from rag.readers.backends import http_json
from rag.readers.backends.llama_cpp import LlamaCpp
from rag.readers.backends.openai import OpenAI
from rag.stage import Context
from rag.testing import MemorySnapshot, check_stage

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
KEY = "sk-very-secret"


def chat(session: Session, *conversations: Conversation) -> list[Reply | Exception]:
    return session.chat(conversations or [QUESTION], max_tokens=6, temperature=0, stop=(), seed=0)


# A real server.


@pytest.fixture(scope="module")
def llama_server(smollm2: LlamaCpp) -> Iterator[str]:
    """llama.cpp's own HTTP server, on a free port of the loopback interface."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf_file(smollm2.model, "llama_cpp"))
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 512, 1, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup, parameters.api_keys = False, [KEY]
    running = xllamacpp.Server(parameters)
    yield running.listening_address
    del running


@pytest.fixture
def real(llama_server: str, monkeypatch: pytest.MonkeyPatch) -> OpenAI:
    monkeypatch.setenv("TEST_KEY", KEY)
    return OpenAI(url=llama_server, model="smollm2", key_env="TEST_KEY", logprobs=True)


def test_a_real_server_answers_as_the_model_in_this_process(real: OpenAI, session: Session) -> None:
    over_http, inside = chat(real.open(Context())), chat(session)
    assert isinstance(over_http[0], Reply) and isinstance(inside[0], Reply)
    assert over_http[0].text == inside[0].text
    assert over_http[0].logprobs == pytest.approx(inside[0].logprobs, abs=1e-3)


def test_a_real_server_counts_tokens(real: OpenAI, session: Session) -> None:
    opened = real.open(Context())
    for text in ("", "Hello world", "Größe, 大きさ"):
        assert opened.count(text) == session.count(text)


def test_a_real_server_refuses_what_it_should(real: OpenAI) -> None:
    long = [{"role": "user", "content": "word " * 600}]
    failed, reply = chat(real.open(Context()), long, QUESTION)
    assert isinstance(failed, BackendFailed) and isinstance(reply, Reply)
    assert "status 400: request (" in str(failed) and "check 'model', 'budget'" in str(failed)
    (failed,) = chat(real.model_copy(update={"key_env": None}).open(Context()))
    assert "status 401" in str(failed) and "set 'key_env'" in str(failed)


def test_the_stage_over_a_real_server(real: OpenAI) -> None:
    wiki = MemorySnapshot([{"id": "p", "title": "Tower", "text": "Gustave Eiffel built it."}])
    batch = Batch.of(["Who built the tower?"]).put(documents=Ranking.of([[(0, 1.0)]], wiki))
    # Without log-probabilities: the server's cache of prompts moves their last digits.
    backend = real.model_copy(update={"logprobs": False})
    after = check_stage(Generate(backend=backend, max_tokens=8), batch)
    assert after["confidence"] == (None,)
    assert after["answer"][0] and after["route"][0].startswith("generate: smollm2")
    assert KEY not in Generate(backend=real).model_dump_json()


# Servers that misbehave.

Script = Callable[[BaseHTTPRequestHandler, int], None]


def say(
    handler: BaseHTTPRequestHandler, status: int, body: bytes | dict[str, Any], **headers: str
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def good(text: str = "Paris.") -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


class Faulty:
    """A server that runs a script: a function of the handler and the number of the request."""

    def __init__(self, script: Script) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    number = len(outer.requests)
                    outer.requests.append((self.path, dict(self.headers), body))
                try:
                    script(self, number)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client gave up, as the test wants

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Script], Faulty]]:
    monkeypatch.setattr(http_json, "FIRST_WAIT", 0.01)
    running: list[Faulty] = []

    def start(script: Script) -> Faulty:
        running.append(Faulty(script))
        return running[-1]

    yield start
    for one in running:
        one.close()


def asked(server: Faulty, **settings: Any) -> Reply | Exception:
    return chat(OpenAI(url=server.url, model="m", **settings).open(Context()))[0]


Start = Callable[[Script], Faulty]


def test_the_request_is_what_the_protocol_says(
    faulty: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", f" {KEY}\n")
    server = faulty(lambda handler, _: say(handler, 200, good()))
    for url in (server.url, f"{server.url}/v1/", f"{server.url}/v1/chat/completions"):
        opened = OpenAI(url=url, model="m", key_env="TEST_KEY").open(Context())
        made = opened.chat([QUESTION], max_tokens=5, temperature=0.5, stop=("x",), seed=7)
        assert made == [Reply("Paris.", "stop")]
    for path, headers, body in server.requests:
        assert path == "/v1/chat/completions"
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert body == {
            "model": "m",
            "messages": QUESTION,
            "max_tokens": 5,
            "temperature": 0.5,
            "stop": ["x"],
            "seed": 7,
        }


def test_errors_of_the_server_are_tried_again(faulty: Start) -> None:
    def script(handler: BaseHTTPRequestHandler, number: int) -> None:
        say(handler, *((500, b"oops") if number < 2 else (200, good())))

    server = faulty(script)
    assert asked(server) == Reply("Paris.", "stop")
    assert len(server.requests) == 3


def test_retries_are_bounded(faulty: Start) -> None:
    server = faulty(lambda handler, _: say(handler, 503, {"error": {"message": "loading"}}))
    message = str(asked(server))
    assert message == (
        f"{server.url}/v1/chat/completions: status 503: loading; look at the server's log"
    )
    assert len(server.requests) == http_json.ATTEMPTS


def test_retry_after_is_honoured(faulty: Start) -> None:
    def script(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number:
            say(handler, 200, good())
        else:
            say(handler, 429, b"", Retry_After="0.4")

    started = time.monotonic()
    assert asked(faulty(script)) == Reply("Paris.", "stop")
    assert time.monotonic() - started >= 0.4


def test_a_wait_that_is_too_long_is_an_error_at_once(faulty: Start) -> None:
    server = faulty(lambda handler, _: say(handler, 429, b"slow down", Retry_After="3600"))
    assert "status 429: slow down; lower 'concurrency', or wait" in str(asked(server))
    assert len(server.requests) == 1


def test_retry_after_may_be_a_date() -> None:
    from email.message import Message

    header = Message()
    header["Retry-After"] = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert http_json._retry_after(header) == 0  # type: ignore[arg-type]
    header.replace_header("Retry-After", "Wed, 21 Oct 2099 07:28:00 GMT")
    assert http_json._retry_after(header) > 1e9  # type: ignore[arg-type]
    header.replace_header("Retry-After", "soon")
    assert http_json._retry_after(header) == 0  # type: ignore[arg-type]


def test_a_timeout_says_so_and_is_not_tried_again(faulty: Start) -> None:
    done = threading.Event()

    def script(handler: BaseHTTPRequestHandler, _: int) -> None:
        done.wait(10)

    server = faulty(script)
    message = str(asked(server, timeout=0.2))
    done.set()
    assert "no answer within 0.2 s; raise 'timeout'" in message
    assert len(server.requests) == 1


def test_a_reply_that_trickles_is_a_timeout(faulty: Start) -> None:
    def script(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    started = time.monotonic()
    assert "no answer within 0.3 s" in str(asked(faulty(script), timeout=0.3))
    assert time.monotonic() - started < 5


def test_a_body_that_breaks_off_is_tried_again(faulty: Start) -> None:
    def script(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number:
            say(handler, 200, good())
        else:
            say(handler, 200, b'{"choices": ', Content_Length="500")
            handler.connection.close()

    server = faulty(script)
    assert asked(server) == Reply("Paris.", "stop")
    assert len(server.requests) == 2


def test_a_server_that_always_hangs_up_is_named(faulty: Start) -> None:
    server = faulty(lambda handler, _: handler.connection.close())
    message = str(asked(server))
    assert message.startswith(
        f"{server.url}/v1/chat/completions: the server dropped the connection"
    )
    assert len(server.requests) == http_json.ATTEMPTS


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>hi</html>", "status 200, but the reply is not JSON: <html>hi</html>; is 'url'"),
        (b"\xff\xfe", "the reply is not JSON"),
        (b"[]", "the reply is no JSON object but list"),
        ({}, "the reply has no choices; it has: nothing"),
        ({"choices": [], "id": 1}, "the reply has no choices; it has: choices, id"),
        ({"choices": [{"message": {}}]}, "the model wrote nothing"),
        (good(" \n"), "the model wrote nothing"),
        ({"error": {"message": "no such model"}}, "no such model"),
        ({"error": "no such model"}, "no such model"),
    ],
)
def test_replies_that_are_none(faulty: Start, body: bytes | dict[str, Any], message: str) -> None:
    found = asked(faulty(lambda handler, _: say(handler, 200, body)))
    assert isinstance(found, BackendFailed) and message in str(found)


def test_a_reply_that_is_too_large_is_refused(
    faulty: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_json, "LARGEST_BODY", 1000)
    server = faulty(lambda handler, _: say(handler, 200, b" " * 5000))
    assert "larger than 1000 bytes" in str(asked(server))


def test_redirects_are_not_followed(faulty: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    other = faulty(lambda handler, _: say(handler, 200, good()))
    server = faulty(lambda handler, _: say(handler, 307, b"", Location=f"{other.url}/v1"))
    message = str(asked(server, key_env="TEST_KEY"))
    assert f"status 307: a redirect to {other.url}/v1; redirects are not followed" in message
    assert other.requests == [] and len(server.requests) == 1


def test_the_key_is_never_shown(faulty: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    for body in ({"error": {"message": f"bad key {KEY}"}}, f"bad key {KEY}".encode()):
        server = faulty(lambda handler, _, body=body: say(handler, 401, body))  # type: ignore[misc]
        settings = OpenAI(url=server.url, model="m", key_env="TEST_KEY")
        opened = settings.open(Context())
        (error,) = chat(opened)
        assert "bad key ***" in str(error)
        assert KEY not in f"{error!r} {settings!r} {opened._client!r}"  # type: ignore[attr-defined]


def test_no_server_at_all() -> None:
    server = Faulty(lambda handler, _: None)
    server.close()
    started = time.monotonic()
    message = str(asked(server))
    assert message.startswith(f"{server.url}/v1/chat/completions: no connection (")
    assert message.endswith("is the server running, and is 'url' right?")
    assert time.monotonic() - started < 2


def test_requests_run_side_by_side_and_keep_their_order(faulty: Start) -> None:
    at_once, most = 0, 0
    lock = threading.Lock()

    def script(handler: BaseHTTPRequestHandler, number: int) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with lock:
            at_once -= 1
        asked_ = server.requests[number][2]["messages"][0]["content"]
        say(handler, *((400, b"no") if asked_ == "3" else (200, good(asked_))))

    server = faulty(script)
    opened = OpenAI(url=server.url, model="m", concurrency=3).open(Context())
    found = chat(opened, *([{"role": "user", "content": str(n)}] for n in range(9)))
    texts = [reply.text if isinstance(reply, Reply) else None for reply in found]
    assert texts == ["0", "1", "2", None, "4", "5", "6", "7", "8"]
    assert 1 < most <= 3


def test_tokens_are_estimated_where_the_server_counts_none(faulty: Start) -> None:
    for body, status in ((b"not found", 404), ({"count": 1}, 200), (b"<html>", 200)):
        server = faulty(lambda h, _, b=body, s=status: say(h, s, b))  # type: ignore[misc]
        opened = OpenAI(url=server.url, model="m").open(Context())
        assert [opened.count(text) for text in ("", "a", "abcd", "abcde", "大きさ")] == [
            0,
            1,
            1,
            2,
            3,
        ]
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8080", "expected one like http://127.0.0.1:8080"),
        ("ftp://host", "expected one like"),
        ("http://", "expected one like"),
        ("http://me:word@host", "use key_env"),
        ("http://host/?key=1", "no '\\?' or '#' part"),
        ("http://host:port", "expected one like"),
    ],
)
def test_urls_are_checked(url: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OpenAI(url=url, model="m")


def test_a_missing_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    settings = OpenAI(url="http://127.0.0.1:1", model="m", key_env="TEST_KEY")
    with pytest.raises(InvalidInput, match="environment variable 'TEST_KEY'"):
        settings.open(Context())
    monkeypatch.setenv("TEST_KEY", "a\nX-Header: b")
    with pytest.raises(InvalidInput, match="holds no usable key"):
        settings.open(Context())


# Replies that come piece by piece.


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


def stream(handler: BaseHTTPRequestHandler, *events: Any, end: bytes = b"data: [DONE]\n\n") -> None:
    """Send events as chunks of a body; bytes as they stand, anything else as the data of one."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for event in [*events, end, b""]:
        data = event if isinstance(event, bytes) else f"data: {json.dumps(event)}\n\n".encode()
        handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        handler.wfile.flush()
        if not event:
            return


def heard(
    server: Faulty | OpenAI, *conversations: Conversation, **more: Any
) -> tuple[list[Reply | Exception], list[str]]:
    """The replies, and what was told of each conversation."""
    settings = server if isinstance(server, OpenAI) else OpenAI(url=server.url, model="m")
    asked = conversations or (QUESTION,)
    said: list[str] = [""] * len(asked)
    me = threading.get_ident()

    def tell(i: int, text: str) -> None:
        assert threading.get_ident() == me and text
        said[i] += text

    given: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "stop": (), "seed": 0}
    session: Any = settings.open(Context())
    return session.chat(asked, **{**given, "tell": tell, **more}), said


def test_a_real_server_answers_in_pieces(real: OpenAI) -> None:
    tower = [{"role": "user", "content": "Gustave Eiffel built the tower.\nWho built the tower?"}]
    replies, said = heard(real, QUESTION, tower)
    for reply, text, whole in zip(
        replies, said, chat(real.open(Context()), QUESTION, tower), strict=True
    ):
        assert isinstance(reply, Reply) and isinstance(whole, Reply)
        assert (reply.text, reply.finish) == (whole.text, whole.finish)
        assert text.strip() == reply.text
        assert reply.logprobs == pytest.approx(whole.logprobs, abs=1e-2)


def test_a_real_server_stops_where_nobody_waits(real: OpenAI) -> None:
    story = [{"role": "user", "content": "Tell me a long story about a king."}]
    said = list[str]()
    replies, _ = heard(
        real,
        story,
        max_tokens=400,
        tell=lambda i, text: said.append(text),
        waits=lambda i: not said,
    )
    assert isinstance(replies[0], Cancelled) and 1 <= len(said) < 100
    assert isinstance(chat(real.open(Context()))[0], Reply)


def test_the_stream_is_asked_for_and_put_together(faulty: Start) -> None:
    texts = ["Par", "is — ", "大き", "さ."]
    said = [chunk(text, logprobs={"content": [{"logprob": -0.5}]}) for text in texts]

    def script(handler: BaseHTTPRequestHandler, _: int) -> None:
        body = b"".join(
            f"data: {json.dumps(one, ensure_ascii=False)}\r\n\r\n".encode() for one in said
        )
        cut = body.index("大".encode()) + 1  # in the midst of a character
        stream(
            handler,
            b": a comment\n\nevent: ping\nid: 3\n\n",
            chunk(None),
            body[:cut],
            body[cut : cut + 1],
            body[cut + 1 :],
            chunk(finish="length"),
            {"choices": [], "usage": {"total_tokens": 3}},
        )

    server = faulty(script)
    ((reply,), (text,)) = heard(server)
    assert reply == Reply("Paris — 大きさ.", "length", (-0.5,) * 4)
    assert text == "Paris — 大きさ."
    assert server.requests[0][2]["stream"] is True


def test_a_server_that_does_not_stream_is_told_of_at_once(faulty: Start) -> None:
    replies, said = heard(faulty(lambda handler, _: say(handler, 200, good())))
    assert replies == [Reply("Paris.", "stop")] and said == ["Paris."]


def test_before_the_first_piece_a_request_is_tried_again(faulty: Start) -> None:
    def script(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 0:
            say(handler, 503, b"loading")
        elif number == 1:
            stream(handler, b": nothing\n\n", end=b"")
        else:
            stream(handler, chunk("Paris."), chunk(finish="stop"))

    server = faulty(script)
    assert heard(server) == ([Reply("Paris.", "stop")], ["Paris."])
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("events", "end", "message"),
    [
        ([chunk("Par")], None, "the reply broke off (IncompleteRead); look at the server's log"),
        ([chunk("Par")], b"", "chat/completions: the reply broke off; look at the server's log"),
        ([chunk("Par")], b"data: [DONE]\n\n", "the reply broke off"),
        ([chunk("Par"), {"error": {"message": "out of memory"}}], b"", "out of memory"),
        ([chunk("Par"), b"data: {'x'}\n\n"], b"", "a piece of the reply is not JSON: \"{'x'}\""),
        ([chunk("Par"), [1]], b"", "a piece of the reply is no JSON object but list"),
        ([chunk(" "), chunk(finish="stop")], b"data: [DONE]\n\n", "the model wrote nothing"),
    ],
)
def test_streams_that_go_wrong(
    faulty: Start, events: list[Any], end: bytes | None, message: str
) -> None:
    def script(handler: BaseHTTPRequestHandler, _: int) -> None:
        stream(handler, *events, end=b"" if end is None else end)

    def cut(handler: BaseHTTPRequestHandler, _: int) -> None:
        data = f"data: {json.dumps(events[0])}\n\n".encode()
        say(handler, 200, data, Content_Type="text/event-stream", Content_Length="500")
        handler.wfile.flush()
        handler.connection.close()

    server = faulty(cut if end is None else script)
    ((failed,), (text,)) = heard(server)
    assert isinstance(failed, BackendFailed) and message in str(failed)
    assert text == events[0]["choices"][0]["delta"]["content"]
    assert len(server.requests) == 1  # what was told cannot be taken back


def test_hanging_up_ends_a_request_before_its_first_piece(faulty: Start) -> None:
    came, gone = threading.Event(), threading.Event()

    def script(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number:
            say(handler, 200, good())
            return
        came.set()
        handler.connection.settimeout(20)
        assert handler.connection.recv(1) == b""  # the client hung up
        gone.set()

    server = faulty(script)
    started = time.monotonic()
    session: Any = OpenAI(url=server.url, model="m", concurrency=1, timeout=30).open(Context())
    settings: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "stop": (), "seed": 0}
    replies = session.chat(
        [QUESTION, QUESTION], waits=lambda i: i == 1 or not came.is_set(), **settings
    )
    assert isinstance(replies[0], Cancelled) and replies[1] == Reply("Paris.", "stop")
    assert gone.wait(20) and time.monotonic() - started < 15
    assert "stream" not in server.requests[0][2]  # nobody listened


def test_hanging_up_ends_the_wait_for_the_next_attempt(faulty: Start) -> None:
    server = faulty(lambda handler, _: say(handler, 429, b"", Retry_After="50"))
    started = time.monotonic()
    ((failed,), _) = heard(server, waits=lambda i: not server.requests)
    assert isinstance(failed, Cancelled) and len(server.requests) == 1
    assert time.monotonic() - started < 20


def test_what_a_listener_raises_hangs_up(faulty: Start) -> None:
    gone = threading.Event()

    def script(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.connection.settimeout(20)
        try:
            stream(handler, chunk("a"), end=b": wait\n\n")
            assert handler.connection.recv(1) == b""
        finally:
            gone.set()

    def tell(i: int, text: str) -> None:
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        heard(faulty(script), tell=tell)
    assert gone.wait(20)


def test_a_stream_that_trickles_is_a_timeout(faulty: Start) -> None:
    def script(handler: BaseHTTPRequestHandler, _: int) -> None:
        def slowly() -> Iterator[Any]:
            for _ in range(200):
                time.sleep(0.05)
                yield chunk("a")

        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for event in slowly():
            handler.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    settings = OpenAI(url=faulty(script).url, model="m", timeout=0.4)
    ((failed,), (text,)) = heard(settings)
    assert "no answer within 0.4 s" in str(failed) and set(text) == {"a"}
