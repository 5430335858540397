"""Evaluation tasks by name: ``beir/scifact``, ``loco/qmsum``, as folders in the layout of BEIR.

A name that is no path here is one of a published data set. Its files are taken from a folder of
repositories, where ``$RAG_DATASETS`` names one, or else downloaded from Hugging Face, once
(HF_HUB_OFFLINE=1 forbids that). What is made of them is kept in ``tasks`` of the user's cache
folder (``rag.compiled.user_cache``), and everything else reads it as any folder of BEIR.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag.compiled import user_cache
from rag.errors import Damaged, InvalidInput, MissingExtra, NotFound

BEIR = (
    *("arguana", "climate-fever", "dbpedia-entity", "fever", "fiqa", "hotpotqa", "msmarco"),
    *("nfcorpus", "nq", "quora", "scidocs", "scifact", "trec-covid", "webis-touche2020"),
)
"""The tasks of BEIR whose data anybody may download; the name of each is that of its repository."""

LOCO = (
    *("summ_screen_fd", "gov_report", "qmsum", "qasper_title", "qasper_abstract", "multifieldqa"),
    *("2wikimqa", "passage_retrieval", "courtlistener_Plain_Text", "courtlistener_HTML"),
    *("legal_case_reports", "stackoverflow"),
)
"""The tasks of LoCoV1, as its column ``dataset`` calls them; its figure is their mean nDCG@10."""

TASKS = (*(f"beir/{name}" for name in BEIR), *(f"loco/{name}" for name in LOCO))

FORMAT = 1  # of what `task_folder` writes; part of its folder's name
_LOCO_QUERIES, _LOCO_DOCUMENTS = "hazyresearch/LoCoV1-Queries", "hazyresearch/LoCoV1-Documents"
_QRELS = "query-id\tcorpus-id\tscore\n"


def is_task(name: str | Path) -> bool:
    """Whether a name begins as those of tasks do, and is no path here."""
    first = str(name).partition("/")[0]
    return first in ("beir", "loco") and str(name).count("/") == 1 and not Path(name).exists()


def tasks_of(name: str | Path) -> list[str]:
    """The tasks of a suite, if ``name`` is ``beir`` or ``loco`` and no path here; else none."""
    suite = f"{name}/"
    return [] if Path(name).exists() else [task for task in TASKS if task.startswith(suite)]


def task_folder(name: str) -> Path:
    """The folder of a task, with ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/``.

    LoCoV1 holds one row a question with the ids of its documents, for all tasks together. Rows of
    QASPER without a passage are dropped, with the questions that they answer, as its own code does.

    Args:
        name: one of ``TASKS``.

    Raises:
        InvalidInput: there is no such task, or its files do not fit together.
        NotFound: its files are not here and cannot be downloaded.
        MissingExtra: huggingface_hub, which downloads, is not installed.
        Damaged: a file cannot be read.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidInput(f"no task {name!r}; {hint}there are: {', '.join(TASKS)}")
    suite, _, task = name.partition("/")
    if suite == "beir":
        folders = _repository(f"BeIR/{task}"), _repository(f"BeIR/{task}-qrels")
    else:
        folders = _repository(_LOCO_DOCUMENTS), _repository(_LOCO_QUERIES)
    target = user_cache() / "tasks" / _digest(name, folders) / task
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
    try:
        (_write_beir if suite == "beir" else _write_loco)(task, *folders, made)
        if not target.is_dir():  # else another process was faster
            made.rename(target)
    except pa.ArrowException as error:
        raise Damaged(f"{name}: a file cannot be read as parquet: {str(error)[:200]}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def _write_beir(task: str, data: Path, judged: Path, out: Path) -> None:
    """Their files of BEIR as they are, or, where the repository holds parquet, as JSON lines."""
    for kind in ("corpus", "queries"):
        packed = data / f"{kind}.jsonl.gz"
        if packed.is_file():
            shutil.copyfile(packed, out / packed.name)
        else:
            rows = _rows(data, f"{kind}/*.parquet", f"beir/{task}", ("_id", "text"))
            _write(out / f"{kind}.jsonl", rows)
    (out / "qrels").mkdir()
    splits = sorted(judged.glob("*.tsv"))
    if not splits:
        raise InvalidInput(f"beir/{task}: {judged} holds no judgements (*.tsv)")
    for file in splits:
        shutil.copyfile(file, out / "qrels" / file.name)


def _write_loco(task: str, documents: Path, queries: Path, out: Path) -> None:
    """The rows of one task of LoCoV1 as a folder of BEIR."""
    name = f"loco/{task}"
    absent, there = set[str](), set[str]()

    def corpus() -> Iterator[dict[str, str]]:
        wanted = ("pid", "passage", "dataset")
        for row in _rows(documents, "**/*.parquet", name, wanted, task):
            if row["passage"] is None:
                absent.add(row["pid"])
            else:
                there.add(row["pid"])
                yield {"_id": row["pid"], "title": "", "text": row["passage"]}

    _write(out / "corpus.jsonl", corpus())
    grades = list[str]()

    def questions() -> Iterator[dict[str, str]]:
        wanted = ("qid", "query", "answer_pids", "dataset")
        for row in _rows(queries, "**/*.parquet", name, wanted, task):
            given = row["answer_pids"]
            answers = [given] if isinstance(given, str) else list(given or ())
            if unknown := [pid for pid in answers if pid not in there and pid not in absent]:
                raise InvalidInput(
                    f"{name}: the question {row['qid']!r} is answered by {unknown[0]!r}, and no "
                    "document is called so; queries and documents are of different versions"
                )
            if absent.intersection(answers):
                continue
            grades.extend(f"{row['qid']}\t{pid}\t1\n" for pid in dict.fromkeys(answers))
            yield {"_id": row["qid"], "text": row["query"]}

    _write(out / "queries.jsonl", questions())
    if not grades:
        raise InvalidInput(f"{name}: {queries} holds no question of the data set {task!r}")
    (out / "qrels").mkdir()
    (out / "qrels" / "test.tsv").write_text(_QRELS + "".join(grades), "utf-8")


def _rows(
    folder: Path, pattern: str, name: str, wanted: tuple[str, ...], task: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of parquet files; ``task``: only those whose ``dataset`` it is."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise InvalidInput(f"{name}: {folder} holds no {pattern}")
    for path in files:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if lacking := [column for column in wanted if column not in names]:
                raise InvalidInput(
                    f"{name}: {path} has no column {lacking[0]!r}; it has: {', '.join(names)}"
                )
            for batch in file.iter_batches(batch_size=500):
                rows: list[dict[str, Any]] = batch.to_pylist()
                yield from (row for row in rows if task is None or row["dataset"] == task)


def _write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _digest(name: str, folders: Iterable[Path]) -> str:
    """What tells these files from others: their names, sizes and times."""
    listed: list[Any] = [name, FORMAT]
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                state = file.stat()
                listed.append((str(file.relative_to(folder)), state.st_size, state.st_mtime_ns))
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def _repository(name: str) -> Path:
    """The folder of a data set's repository: below ``$RAG_DATASETS``, or downloaded."""
    root = os.environ.get("RAG_DATASETS")
    if root:
        folder = Path(root).expanduser() / name
        if folder.is_dir():
            return folder
        raise NotFound(
            f"{folder}: no such folder; RAG_DATASETS names where repositories such as {name} lie "
            "(unset it to download from Hugging Face)"
        )
    if find_spec("huggingface_hub") is None:
        raise MissingExtra("models", "huggingface_hub")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    wanted = ["*.parquet", "*.jsonl.gz", "*.tsv"]
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=wanted))
    except (HfHubHTTPError, OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise NotFound(
            f"no data set {name!r}: Hugging Face gives none ({why}); "
            "check the connection (offline, only what was downloaded before can be read), or put "
            f"its files into a folder DIR/{name} and set RAG_DATASETS=DIR"
        ) from error
