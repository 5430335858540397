"""M2-BERT against a BERT of the same size with full attention, on long texts, on the CPU.

    python benchmarks/m2_bert.py --tokens 512 2048 8192 --json benchmarks/results/m2_bert.json

Both have 12 layers of width 768 and random weights (time and memory do not depend on the values),
and read the same random token ids, one text at a time. M2-BERT's model is as long as the text,
BERT is transformers' own with its position table lengthened: once with torch's fused attention
(``sdpa``, its default), once with the plain one (``eager``, which writes the whole matrix of
attention weights). Each model runs in a process of its own, so that its peak of resident memory is
its own: ``peak_mb`` is the peak after the passes, ``added_mb`` what they added to the loaded model.
Times are process CPU seconds of a pass in float32, by turns between the models, the median of the
rounds. M2-BERT has a pass before them, in which it makes its kernels (``first_s``);
``m2_bert_uncached`` makes them in each pass and keeps none (``cache_kernels: false``), and BERT
makes nothing, so their first passes count. A pass that takes more than ``--limit`` CPU seconds is
ended: its row has no time, ``not_finished_in_s``, and the peak that was reached.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import signal
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MODELS = ("m2_bert", "m2_bert_uncached", "bert_sdpa", "bert_eager")


def peak_mb() -> float:
    """The peak of resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def model_of(name: str, length: int) -> Any:
    """The model, with random weights."""
    import transformers

    from rag.encoders.m2_bert import M2Bert, M2BertConfig

    if name.startswith("m2_bert"):
        keep = name == "m2_bert"
        config = M2BertConfig(max_position_embeddings=length, pooler=True, cache_kernels=keep)
        return M2Bert(config)
    config = transformers.BertConfig(
        max_position_embeddings=length,
        vocab_size=30528,
        attn_implementation=name.removeprefix("bert_"),
    )
    return transformers.BertModel(config)


def used() -> float:
    """The CPU seconds of this process so far, as the system's limit counts them."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def end_pass(*_: Any) -> None:
    """What the system's signal does when a pass has used up its seconds."""
    raise TimeoutError


def serve(line: Connection, name: str, length: int, threads: int, limit: int) -> None:
    """In a process of its own: answer each message with the seconds of one pass, or None."""
    import torch

    torch.set_num_threads(threads)
    model = model_of(name, length).eval()
    ids = torch.randint(1000, 30000, (1, length), generator=torch.Generator().manual_seed(0))
    loaded = peak_mb()
    signal.signal(signal.SIGXCPU, end_pass)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    with torch.inference_mode():
        while line.recv() == "pass":
            resource.setrlimit(resource.RLIMIT_CPU, (int(used()) + limit + 1, most))
            start, wall = time.process_time(), time.perf_counter()
            try:
                model(ids)
                found = time.process_time() - start, time.perf_counter() - wall
            except TimeoutError:
                found = None
            resource.setrlimit(resource.RLIMIT_CPU, (most, most))
            line.send(found)
    parameters = sum(x.numel() for x in model.parameters())
    line.send((parameters, loaded, peak_mb()))


def compare(
    names: list[str], length: int, rounds: int, threads: int, limit: int
) -> list[dict[str, Any]]:
    """Seconds and memory of each model for one text of ``length`` tokens."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name in names:
        lines[name], other = context.Pipe()
        given = (other, name, length, threads, limit)
        context.Process(target=serve, args=given, daemon=True).start()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    ended: set[str] = set()
    for turn in range(rounds + 1):
        for name, line in lines.items():  # one at a time: the others wait
            if (turn or name == "m2_bert") and name not in ended:
                line.send("pass")
                took = line.recv()
                if took is None:
                    ended.add(name)
                else:
                    times[name].append(took)
                print(name, length, took or "not finished", file=sys.stderr, flush=True)
    found = []
    for name, line in lines.items():
        line.send("end")
        parameters, loaded, peak = line.recv()
        row = {
            "model": name,
            "tokens": length,
            "parameters_m": round(parameters / 1e6, 1),
            "peak_mb": round(peak),
            "added_mb": round(peak - loaded),
        }
        if name in ended:
            row["not_finished_in_s"] = limit
        else:
            cpu, wall = zip(*times[name][-rounds:], strict=True)
            row["cpu_s"] = round(statistics.median(cpu), 3)
            row["wall_s"] = round(statistics.median(wall), 3)
            row["first_s"] = round(times[name][0][0], 3)
        found.append(row)
    m2 = next(row for row in found if row["model"] == "m2_bert")
    for row in found:
        if "cpu_s" in row and "cpu_s" in m2:
            row["times_m2_cpu"] = round(row["cpu_s"] / m2["cpu_s"], 2)
        row["times_m2_peak"] = round(row["peak_mb"] / m2["peak_mb"], 2)
    return found


def main() -> None:
    """Read the arguments, run, print and write the figures."""
    parser = argparse.ArgumentParser(description="M2-BERT and BERT, see the file's docstring")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=300, help="CPU seconds of a pass")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    names = ["m2_bert", *(name for name in args.models if name != "m2_bert")]
    import torch
    import transformers

    figures = {
        "weights": "random",
        "batch": 1,
        "dtype": "float32",
        "threads": args.threads,
        "rounds": args.rounds,
        "limit_cpu_s": args.limit,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "encode": [
            row
            for length in args.tokens
            for row in compare(names, length, args.rounds, args.threads, args.limit)
        ],
    }
    text = json.dumps(figures, indent=1) + "\n"
    sys.stdout.write(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text)


if __name__ == "__main__":
    main()
