"""Each job that writes, killed anywhere: at random instants, and around each call that lasts."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rag import Collection
from rag.collection import manifest
from rag.errors import NotFound

if TYPE_CHECKING:
    from tests.killed.conftest import Jobs

SEGMENT = 40
NUMBER = 4
Rows = list[dict[str, str]]


def passage(number: int, text: str = "apple") -> dict[str, str]:
    return {"id": f"p{number}", "text": f"{text} w{number} x{number % 7}. Birch {number}!"}


OLD = [passage(n) for n in range(160)]
NEW = [*OLD[:70], passage(1000), *OLD[75:], *(passage(n) for n in range(160, 200))]
MORE = [*(passage(n, "apple new") for n in range(100, 120)), *(passage(n) for n in range(300, 360))]
GONE = [f"p{n}" for n in (3, 50, 51, 90)]


def shown(rows: Rows) -> dict[str, str]:
    return {row["id"]: row["text"] for row in rows}


BEFORE = {name: text for name, text in shown(OLD).items() if name not in GONE}


@dataclass(frozen=True)
class Job:
    """A command on the folder ``work``, and the passages that it leads to.

    ``again`` says whether it does nothing when it is run once more after its commit.
    """

    arguments: Callable[[Path], list[object]]
    after: dict[str, str]
    again: bool = True
    first: bool = False


def add(how: str) -> Callable[[Path], list[object]]:
    cut = ("--segment-rows", SEGMENT)
    return lambda at: ["add", at / "c", at.parent / "more.jsonl", "--on-existing", how, *cut]


def index(at: Path) -> list[object]:
    return ["index", at.parent / "new.jsonl", "--out", at / "c", "--segment-rows", SEGMENT]


def run(at: Path) -> list[object]:
    asked = [at.parent / "asked.jsonl", at / "out.jsonl"]
    return ["run", *asked, "-c", at / "c", "-p", "bm25-extract"]


CLEAN: Callable[[Path], list[object]] = lambda at: ["clean", at / "c", "--older-than", 0]  # noqa: E731
JOBS = {
    "index, the first": Job(index, shown(NEW), first=True),
    "index, again": Job(index, shown(NEW)),
    "add, skipping": Job(add("skip"), shown(MORE) | BEFORE),
    "add, replacing": Job(add("replace"), BEFORE | shown(MORE), again=False),
    "compact": Job(lambda at: ["compact", at / "c", "--segment-rows", 100], BEFORE),
    "delete": Job(
        lambda at: ["delete", at / "c", "p10", "p100"],
        {name: text for name, text in BEFORE.items() if name not in ("p10", "p100")},
        again=False,
    ),
    "clean": Job(CLEAN, BEFORE),
    "run": Job(run, BEFORE),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources, and in ``template`` a collection of ``NUMBER`` manifests with deleted rows."""
    folder = tmp_path_factory.mktemp("killed")
    questions = [{"id": f"q{n}", "question": f"Which apple w{n}?"} for n in range(300)]
    files: dict[str, list[Any]] = {"old": OLD, "new": NEW, "more": MORE, "asked": questions}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "template" / "c"
    Collection.build([passage(2000), *OLD[50:]], path, segment_rows=SEGMENT)
    collection, _ = Collection.build(folder / "old.jsonl", path, segment_rows=SEGMENT)
    collection.delete(GONE[:1])
    assert collection.delete(GONE[1:]).manifest.number == NUMBER
    return folder


class Trials:
    """One job: an undisturbed run of it, then kills of others, each checked."""

    def __init__(self, jobs: Jobs, home: Path, job: Job) -> None:
        self.jobs, self.home, self.job, self.work = jobs, home, job, home / "work"
        self.path, self.command = self.work / "c", job.arguments(self.work)
        self._begin()
        whole = jobs.run(*self.command)
        assert whole.code == 0, whole.err
        assert whole.calls is not None
        self.calls, self.seconds, self.whole = whole.calls, whole.seconds, jobs.files(self.work)
        assert jobs.passages(self.path) == job.after
        self.newest = manifest.numbers(self.path)[-1]

    def _begin(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        if self.job.first:
            self.work.mkdir()
        else:
            shutil.copytree(self.home / "template", self.work)
            if self.job.arguments is run:
                (self.work / "out.jsonl").write_text("an older result\n")

    def kill(self, dice: random.Random, where: Any) -> int:
        """Kill the job there, and perhaps once more when it goes on; returns the kills."""
        self._begin()
        held = None if self.job.first else Collection.open(self.path).snapshot()
        kills = 0
        while self.jobs.kill(self.command, where) is not None:
            kills += 1
            self._check_state()
            if kills == 2 or dice.random() < 0.6 or self._committed():
                break
            where = dice.uniform(0, self.seconds / 2)
        self._finish()
        if held is not None:  # opened before all of this, and only now read
            rows = [row for batch in held.passages() for row in batch.to_pylist()]
            assert {row["id"]: row["text"] for row in rows} == BEFORE
            _, docs, _ = held.index("lexical").search(["w10 apple"], 1, keep=held.keep)
            assert held.rows(docs, ["id"])["id"].to_pylist() == ["p10"]
        return kills

    def _committed(self) -> bool:
        return bool(manifest.numbers(self.path)) and (
            self.job.first or manifest.numbers(self.path)[-1] != NUMBER
        )

    def _check_state(self) -> None:
        """What a killed job leaves: the old state or the new one, whole."""
        if not manifest.numbers(self.path):
            assert self.job.first
            with pytest.raises(NotFound, match="has not finished here; run it again|makes it"):
                Collection.open(self.path)
            said = self.jobs.run("info", self.path)
            assert (said.code, said.err[:7]) == (2, "error: ")
            return
        found = self.jobs.passages(self.path)
        assert found == (self.job.after if self._committed() else BEFORE)
        assert Collection(self.path).verify() == []
        if self.job.arguments is run:
            out = (self.work / "out.jsonl").read_bytes()
            assert out in (b"an older result\n", self.whole["out.jsonl"])

    def _finish(self) -> None:
        """Run again, it comes to the bytes of the run that nobody disturbed."""
        committed = self._committed() and not self.job.again
        done = self.jobs.run(*self.command)
        assert done.code == (2 if committed and "delete" in self.command else 0), done.err
        assert self.jobs.passages(self.path) == self.job.after
        assert Collection(self.path).verify() == []
        if not committed:
            found = self.jobs.files(self.work)
            assert found.keys() == self.whole.keys()
            assert found == self.whole
            assert manifest.numbers(self.path)[-1] == self.newest
        assert not (self.path / ".work").exists() or self.job.arguments in (CLEAN, run)


def check(jobs: Jobs, home: Path, name: str, kills: int, seed: int) -> None:
    """So many kills of a job, half at points and half at instants; each is checked."""
    dice = random.Random(f"{name} {seed}")
    trials = Trials(jobs, home, JOBS[name])
    done = 0
    for where in jobs.places(trials.calls, (kills + 1) // 2, dice):
        done += trials.kill(dice, where)
    for _ in range(20 * kills):
        if done >= kills:
            break
        done += trials.kill(dice, dice.uniform(0, trials.seconds))
    print(f"{name}: {done} kills, {len(trials.calls)} calls")
    assert done >= kills


@pytest.mark.parametrize("name", JOBS)
def test_killed_five_times(name: str, jobs: Jobs, home: Path) -> None:
    check(jobs, home, name, 5, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_killed_fifty_times(name: str, jobs: Jobs, home: Path) -> None:
    check(jobs, home, name, 50, seed=2)
