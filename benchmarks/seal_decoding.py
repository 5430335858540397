"""Decoding for ``seal``: many questions at once, and against Hugging Face's generate with a mask.

    python benchmarks/seal_decoding.py --json benchmarks/results/seal_decoding.json
    python benchmarks/seal_decoding.py --parts generate --rounds 2 --json ...

The file keeps the parts that a run does not measure.

The packaged smollm2 (135 M parameters, float32) and the n-grams of xquad-en. Three comparisons,
each of ways that take turns in one process, in process CPU seconds, the median of the rounds:

- **batch**: the default settings (15 beams, 10 tokens, titles, spans, unigrams), eight questions in
  one call against one call each.
- **generate**: the texts' beam search alone, against ``generate`` of transformers with a processor
  that adds a mask of the whole vocabulary, as the reference does it; one question at a time, and
  eight in one call. That the keys are the same is checked in rounds that are not timed.
- **index**: the seconds within calls of the index, as a share of the batch's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rag.indexers.fm_index import FMIndex, FMIndexes
from rag.retrievers.seal.beam import Search, search
from rag.retrievers.seal.decode import Decoding, decode
from rag.retrievers.seal.model import SealModel

DATA = Path(__file__).parents[1] / "examples" / "xquad-en"
Figures = dict[str, Any]
Ngram = tuple[int, ...]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.splitlines() if line]


class Masking:
    """What transformers calls between two tokens: everything but the index's tokens is masked."""

    def __init__(self, index: FMIndexes, prompt: int, keep: dict[Ngram, float] | None, beams: int):
        """Constrain after ``prompt`` tokens; with ``keep`` also keep the candidates' scores."""
        self._index, self._prompt, self._beams = index, prompt, beams
        self.kept: list[dict[Ngram, float]] = []
        self._keep = keep is not None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores (rows, V) with minus infinity where the index has no such next token."""
        import torch

        written = input_ids[:, self._prompt :].tolist()
        mask = torch.full_like(scores, -torch.inf)
        for row, ranges in enumerate(self._index.find(written)):
            mask[row, self._index.next_tokens(ranges).tokens.tolist()] = 0
        masked = scores + mask
        if self._keep:
            self._record(written, masked)
        return masked

    def _record(self, written: list[list[int]], masked: Any) -> None:
        size = len(written) // self._beams
        self.kept = self.kept or [{} for _ in range(size)]
        for one in range(size):
            rows = range(one * self._beams, (one + 1) * self._beams)
            # All beams are the empty n-gram at first, and only one of them counts.
            rows = rows[:1] if not written[0] else rows
            found: list[tuple[float, Ngram]] = []
            for row in rows:
                before = tuple(written[row])
                if before and before not in self.kept[one]:
                    continue  # a beam without candidates, which transformers fills up
                base = self.kept[one].get(before, 0.0)
                best = masked[row].topk(2 * self._beams)
                found += [
                    (base + score, (*before, token))
                    for score, token in zip(best[0].tolist(), best[1].tolist(), strict=True)
                    if score > -np.inf
                ]
            found.sort(key=lambda each: -each[0])
            self.kept[one].update((ngram, score) for score, ngram in found[: 2 * self._beams])


def generated(
    model: SealModel, index: FMIndexes, questions: list[str], settings: Decoding, *, keep: bool
) -> list[dict[Ngram, float]]:
    """Constrained generation as transformers does it, of all questions in one call."""
    import torch
    from transformers import GenerationConfig

    prompts = [model.prompts(question, titles=False)[0] for question in questions]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    masking = Masking(index, longest, {} if keep else None, settings.beam)
    with torch.inference_mode():
        model._model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                num_beams=settings.beam,
                num_return_sequences=settings.beam,
                max_new_tokens=settings.length,
                do_sample=False,
                length_penalty=0.0,
                pad_token_id=0,
                eos_token_id=None,
            ),
            logits_processor=[masking],
        )
    return masking.kept


def searched(
    model: SealModel, index: FMIndexes, questions: list[str], settings: Decoding
) -> list[dict[Ngram, float]]:
    """The same keys by our search."""
    hypotheses = model.open([model.prompts(question, titles=False) for question in questions])
    rules = [Search(settings.length, index.whole())] * len(questions)
    return search(hypotheses, index, rules, settings.beam)


@contextmanager
def timed(index: FMIndexes, spent: list[float]) -> Iterator[None]:
    """Add the seconds within the calls of an index to ``spent[0]``."""
    names = [n for n in ("count", "extend", "find", "locate", "next_tokens", "top_k", "widths")]
    names += ["documents", "starts", "whole"]
    depth = [0]

    def wrapped(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            depth[0] += 1
            start = time.process_time()
            try:
                return work(*given, **named)
            finally:
                depth[0] -= 1
                if not depth[0]:
                    spent[0] += time.process_time() - start

        return call

    for name in names:
        setattr(index, name, wrapped(getattr(index, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(index, name)


def turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median seconds of each way; they take turns."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, work in ways.items():
            start = time.process_time()
            work()
            times[way].append(time.process_time() - start)
    return {way: round(statistics.median(each), 3) for way, each in times.items()}


def difference(one: list[dict[Ngram, float]], other: list[dict[Ngram, float]]) -> Figures:
    """How far two sets of keys agree."""
    pairs = list(zip(one, other, strict=True))
    common = [mine.keys() & its.keys() for mine, its in pairs]
    return {
        "keys": sum(map(len, one)),
        "keys_of_generate": sum(map(len, other)),
        "in_both": sum(map(len, common)),
        "largest_difference_of_log_p": max(
            abs(mine[ngram] - its[ngram])
            for (mine, its), both in zip(pairs, common, strict=True)
            for ngram in both
        ),
    }


def main() -> None:
    """Read the arguments, run, print and write the figures."""
    import torch
    import transformers

    parser = argparse.ArgumentParser(description="Decoding for seal, see the file's docstring")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", default=["batch", "generate"])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = SealModel.load("smollm2", device="cpu")
    passages = read(DATA / "corpus.jsonl.gz")
    rows = model.layout.rows(
        model.encode, [each["title"] for each in passages], [each["text"] for each in passages]
    )
    asked = [each["text"] for each in read(DATA / "queries.jsonl")]
    asked = asked[:: len(asked) // args.questions][: args.questions]
    figures: Figures = {
        "model": "SmolLM2-135M-Instruct, float32",
        "passages": len(rows),
        "tokens": sum(map(len, rows)),
        "threads": args.threads,
        "seconds": "process CPU, median",
        "machine": f"{platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}",
    }
    settings = Decoding()
    with tempfile.TemporaryDirectory() as folder:
        index = FMIndexes([FMIndex.build(rows, Path(folder) / "index")])
        decode(model, index, asked[:1], settings)  # loads and compiles what is needed
        if "batch" in args.parts:
            seconds = turns(
                {
                    "at_once": lambda: decode(model, index, asked, settings),
                    "one_by_one": lambda: [decode(model, index, [q], settings) for q in asked],
                },
                args.rounds,
            )
            spent, start = [0.0], time.process_time()
            with timed(index, spent):
                decode(model, index, asked, settings)
            whole = time.process_time() - start
            figures["batch"] = {
                "questions": len(asked),
                "rounds": args.rounds,
                **seconds,
                "ratio": round(seconds["one_by_one"] / seconds["at_once"], 2),
            }
            figures["index"] = {
                "seconds": round(spent[0], 4),
                "share_of_query": round(spent[0] / whole, 4),
            }
        if "generate" in args.parts:
            figures["generate"] = compare(model, index, asked, settings, args.rounds)
    if args.json and args.json.exists():
        figures = {**json.loads(args.json.read_text()), **figures}
    text = json.dumps(figures, indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)


def compare(
    model: SealModel, index: FMIndexes, asked: list[str], settings: Decoding, rounds: int
) -> Figures:
    """Ours against generate: keys, and seconds at once and one by one."""
    keys = searched(model, index, asked, settings)
    theirs = [generated(model, index, [q], settings, keep=True)[0] for q in asked]
    seconds = turns(
        {
            "ours_at_once": lambda: searched(model, index, asked, settings),
            "generate_at_once": lambda: generated(model, index, asked, settings, keep=False),
            "ours_one_by_one": lambda: [searched(model, index, [q], settings) for q in asked],
            "generate_one_by_one": lambda: [
                generated(model, index, [q], settings, keep=False) for q in asked
            ],
        },
        rounds,
    )
    return {
        "questions": len(asked),
        "rounds": rounds,
        "same_keys": difference(keys, theirs),
        **seconds,
        "ratio_one_by_one": round(seconds["generate_one_by_one"] / seconds["ours_one_by_one"], 2),
        "ratio_at_once": round(seconds["generate_at_once"] / seconds["ours_at_once"], 2),
    }


if __name__ == "__main__":
    main()
