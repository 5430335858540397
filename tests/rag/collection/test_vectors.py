"""Vectors and what is trained are kept apart from indexes: nothing is ever encoded twice."""

from __future__ import annotations

import functools
import itertools
import json
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag import Collection, registry
from rag.collection import folders, index_job, manifest
from rag.collection.kinds import EncodedKind, PlainKind, TrainedKind
from rag.collection.training import sample
from rag.errors import Damaged, InvalidInput
from rag.indexers import Lexical
from rag.jobs import Local
from tests.rag.collection.toy_kind import Toy

Rag = Callable[..., tuple[int, str, str]]
TRAINED = Toy(factory="mean", sample=12)


@pytest.fixture(autouse=True)
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were encoded."""
    monkeypatch.setitem(registry._defined, ("indexes", "toy"), Toy)
    Toy.encoded.clear()
    return Toy.encoded


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": f"p{n}", "text": f"text {n}"} for n in numbers]


def texts(*numbers: int) -> list[str]:
    return [f"text {n}" for n in numbers]


def tree(collection: Collection) -> dict[str, bytes]:
    """The bytes of all that the newest manifest names."""
    state = manifest.read(collection.path)
    files = [file for name in state.folders() for file in (collection.path / name).iterdir()]
    return {str(file.relative_to(collection.path)): file.read_bytes() for file in files}


def built(path: Path, numbers: Iterable[int], **kinds: Any) -> Collection:
    collection, _ = Collection.build(rows(*numbers), path, indexes=kinds, segment_rows=10)
    return collection


def check(collection: Collection, name: str = "toy") -> None:
    """The index tells of every passage what it should, and vectors are in the passages' order."""
    snapshot = collection.snapshot()
    entry = snapshot.manifest.indexes[name]
    vectors, above, mean = snapshot.index(name)
    segments = [segment.whole_batches(["text"]) for segment in snapshot.segments]
    shown = [
        text for batches in segments for batch in batches for text in batch["text"].to_pylist()
    ]
    wanted = Toy(encoder=entry.settings["encoder"])
    assert vectors.tolist() == [wanted.vector(text) for text in shown]
    np.testing.assert_array_equal(above, vectors > (0 if mean is None else mean))


def test_the_three_sorts_of_kinds_are_told_apart() -> None:
    assert isinstance(Lexical(), PlainKind) and not isinstance(Lexical(), EncodedKind)
    assert isinstance(Toy(), TrainedKind) and not isinstance(Toy(), PlainKind)


def test_indexes_of_one_encoder_share_their_vectors(tmp_path: Path, encoded: list[str]) -> None:
    made = built(tmp_path / "c", range(35), toy=Toy(), same=Toy(factory="other"), lexical=Lexical())
    assert sorted(encoded) == sorted(texts(*range(35)))
    encoded.clear()
    made.add_index({"third": TRAINED, "second": Toy(factory="third")})
    assert encoded == []
    entries = made.snapshot().manifest.indexes
    assert len({entries[name].vectors for name in ("toy", "same", "second", "third")}) == 1
    assert entries["lexical"].vectors == ()
    assert len(list((made.path / "vectors").iterdir())) == len(made.snapshot().segments) > 3
    for name in ("toy", "same", "second", "third"):
        check(made, name)
    made.add_index({"other": Toy(encoder="two")})
    assert sorted(encoded) == sorted(texts(*range(35)))
    check(made, "other")
    # The same name with other settings: the new index takes the place of the old one.
    encoded.clear()
    made.add_index({"toy": Toy(factory="new", sample=5)})
    assert encoded == []
    check(made)


def test_writers_encode_what_is_new_and_nothing_else(tmp_path: Path, encoded: list[str]) -> None:
    made = built(tmp_path / "c", range(30), toy=Toy(), two=TRAINED)
    encoded.clear()
    made.delete(["p3", "p17"])
    made.add(rows(30, 31))
    assert encoded == texts(30, 31)
    made.add([{"id": "p30", "text": "new"}], on_existing="replace")
    assert encoded == [*texts(30, 31), "new"]
    encoded.clear()
    made.compact()
    assert encoded == [] and len(made.snapshot().segments) == 1
    check(made)
    check(made, "two")
    assert made.verify() == []


def test_a_changed_source_is_encoded_where_it_changed(tmp_path: Path, encoded: list[str]) -> None:
    made = built(tmp_path / "c", range(200), toy=Toy(), two=TRAINED, lexical=Lexical())
    covers = [part for entry in made.snapshot().manifest.segments for part in entry.covers]
    changed = [*range(90), 1000, *range(90, 200)]
    encoded.clear()
    again = built(tmp_path / "c", changed, toy=Toy(), two=TRAINED, lexical=Lexical())
    after = [part for entry in again.snapshot().manifest.segments for part in entry.covers]
    new = sum(rows for key, rows in set(after) - set(covers))
    assert 1 <= len(encoded) == new < 40
    check(again)
    fresh = built(tmp_path / "fresh", changed, toy=Toy(), two=TRAINED, lexical=Lexical())
    assert tree(again) == tree(fresh)


def test_rows_of_merged_segments_are_found_again(tmp_path: Path, encoded: list[str]) -> None:
    made = built(tmp_path / "c", range(100), toy=Toy(), two=TRAINED)
    made.compact()  # one segment, whose vectors are one folder
    assert len(made.snapshot().segments) == 1
    encoded.clear()
    without = [*range(40), *range(60, 100)]
    again = built(tmp_path / "c", without, toy=Toy(), two=TRAINED)
    assert len(encoded) < 60
    check(again)
    assert tree(again) == tree(built(tmp_path / "fresh", without, toy=Toy(), two=TRAINED))


def test_one_training_for_the_collection(tmp_path: Path) -> None:
    def learnt(collection: Collection) -> str:
        found = manifest.read(collection.path).indexes["toy"].trained
        assert found is not None
        return found

    made = built(tmp_path / "c", range(40), toy=TRAINED)
    first = learnt(made)
    mean = made.snapshot().index("toy")[2]
    one, _ = Collection.build(rows(*range(40)), tmp_path / "one", indexes={"toy": TRAINED})
    assert one.snapshot().index("toy")[2] == mean  # whatever the segments
    made.add(rows(*range(40, 70)))
    made.delete(["p1"])
    made.compact()
    assert learnt(made) == first
    check(made)
    assert made.add_index({"toy": TRAINED}).unchanged
    assert not made.add_index({"toy": TRAINED}, retrain=True).unchanged
    second = learnt(made)
    assert second != first
    check(made)
    assert made.add_index({"toy": TRAINED}, retrain=True).unchanged
    # From the source again: it learns from what the source holds now, as a fresh build.
    for _ in range(2):
        built(made.path, range(70), toy=TRAINED)
        assert tree(made) == tree(built(tmp_path / "fresh", range(70), toy=TRAINED))
    assert learnt(made) not in (first, second)
    assert learnt(built(tmp_path / "again", range(40), toy=TRAINED)) == first


def test_a_compacted_collection_is_as_its_source_says(tmp_path: Path, encoded: list[str]) -> None:
    made = built(tmp_path / "c", range(40), toy=TRAINED)
    made.compact()
    encoded.clear()
    number = made.snapshot().manifest.number
    again = built(made.path, range(40), toy=TRAINED)
    assert encoded == [] and again.snapshot().manifest.number == number


def test_the_sample_is_the_same_however_rows_are_cut() -> None:
    whole = sample([1000], 30)[0]
    assert whole is not None and whole.sum() == 30 and 300 < np.flatnonzero(whole).mean() < 700
    cut = sample([0, 1, 499, 500, 0], 30)
    masks = [mask for mask in cut if mask is not None]
    assert [len(mask) for mask in masks] == [0, 1, 499, 500, 0]
    np.testing.assert_array_equal(np.concatenate(masks), whole)
    assert sample([3, 4], 7) == [None, None]


def test_an_empty_collection_learns_from_what_comes_first(tmp_path: Path) -> None:
    made = Collection.create(tmp_path / "c", indexes={"toy": TRAINED})
    assert manifest.read(made.path).indexes["toy"].trained is None
    made.add(rows(1, 2, 3))
    first = manifest.read(made.path).indexes["toy"].trained
    made.add(rows(4, 5, 6))
    assert manifest.read(made.path).indexes["toy"].trained == first is not None
    check(made)


def test_two_who_add_first_learn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Collection.create(tmp_path / "c", indexes={"toy": TRAINED})
    real, other = manifest.commit, Collection.open(made.path)

    def commit(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(manifest, "commit", real)
        other.add(rows(1, 2, 3))  # just before the first one commits
        return real(*arguments, **more)

    monkeypatch.setattr(manifest, "commit", commit)
    made.add(rows(4, 5, 6))
    check(made)
    assert len(made) == 6
    assert made.verify() == []


def test_who_adds_while_another_trains_anew(
    tmp_path: Path, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = built(tmp_path / "c", range(20), toy=TRAINED)
    made.add(rows(*range(20, 30)))
    real, other = manifest.commit, Collection.open(made.path)
    before = manifest.read(made.path).indexes["toy"].trained

    def commit(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(manifest, "commit", real)
        other.add_index({"toy": TRAINED}, retrain=True)
        return real(*arguments, **more)

    monkeypatch.setattr(manifest, "commit", commit)
    encoded.clear()
    made.add(rows(30, 31))
    assert encoded == texts(30, 31)
    assert manifest.read(made.path).indexes["toy"].trained != before
    check(made)
    assert len(made) == 32


def test_too_few_passages_to_learn_from(tmp_path: Path, encoded: list[str]) -> None:
    greedy = Toy(factory="mean", sample=50, least=39)
    with pytest.raises(InvalidInput, match="needs 39 passages"):
        built(tmp_path / "c", range(30), toy=greedy)
    assert manifest.numbers(tmp_path / "c") == []
    encoded.clear()
    check(built(tmp_path / "c", range(30), toy=TRAINED))  # what was encoded is still there
    assert encoded == []


def files(path: Path) -> list[Path]:
    return [f for part in ("vectors", "trained") for f in sorted(path.glob(f"{part}/*/*"))]


def test_a_flipped_byte_is_named_and_mended(tmp_path: Path, encoded: list[str]) -> None:
    made = built(tmp_path / "c", range(30), toy=TRAINED, two=Toy())
    whole = tree(made)
    assert {f.name for f in files(made.path)} == {"vectors.npy", "mean.npy", "checksums.json"}
    for file in files(made.path):
        encoded.clear()
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        (error,) = made.verify()
        assert str(error).startswith(f"{file}:")
        # Who would build on it says so; what is trained stands in every new index.
        with pytest.raises(Damaged, match=str(file)):
            made.compact()
        if "trained" in str(file):
            with pytest.raises(Damaged, match=str(file)):
                made.add(rows(900))
            encoded.clear()
        again = built(made.path, range(30), toy=TRAINED, two=Toy())
        assert tree(again) == whole and again.verify() == []
        of_one = len(np.load(file.with_name("vectors.npy"))) if "vectors" in str(file) else 0
        assert len(encoded) == of_one  # of that folder, and nothing else
    assert manifest.numbers(made.path) == [1]


def test_without_the_source_an_index_is_mended(tmp_path: Path, encoded: list[str]) -> None:
    made = built(tmp_path / "c", range(30), toy=TRAINED)
    whole = tree(made)
    for file in (files(made.path)[0], files(made.path)[-1]):
        file.unlink()
        assert not made.add_index({"toy": TRAINED}).unchanged
        assert tree(made) == whole


def test_a_lost_segment_does_not_lose_its_vectors(tmp_path: Path, encoded: list[str]) -> None:
    made = built(tmp_path / "c", range(30), toy=TRAINED)
    whole = tree(made)
    next(made.path.glob("segments/*/passages.arrow")).write_bytes(b"x")
    encoded.clear()
    assert tree(built(made.path, range(30), toy=TRAINED)) == whole
    assert encoded == []


def test_clean_keeps_what_is_shared(tmp_path: Path) -> None:
    made = built(tmp_path / "c", range(30), toy=TRAINED, two=Toy(), lexical=Lexical())
    made.add_index({"toy": Toy(factory="other", sample=9)})
    made.delete(["p1"])
    made.compact()
    made.clean(older_than=0)
    left = {str(p.relative_to(made.path)) for p in folders.published(made.path)}
    assert left == set(manifest.read(made.path).folders())
    assert len(list(made.path.glob("vectors/*"))) == len(list(made.path.glob("trained/*"))) == 1
    check(made)
    check(made, "two")


def test_info_counts_every_folder_once(tmp_path: Path, rag: Rag) -> None:
    made = built(tmp_path / "c", range(30), toy=TRAINED, two=Toy())
    code, out, _ = rag("info", made.path, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["bytes"] == sum(len(data) for data in tree(made).values())
    toy, two = facts["indexes"]["toy"], facts["indexes"]["two"]
    assert toy["vectors_bytes"] == two["vectors_bytes"] > 0
    assert toy["trained_bytes"] > two["trained_bytes"] == 0
    assert "trained" in rag("info", made.path)[1]


class Pickled(Local):
    """An executor that sends everything as other processes get it."""

    def map(self, work: Any, tasks: Iterable[Any], **_: Any) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            sent = pickle.loads(pickle.dumps(task))
            assert len(pickle.dumps(task)) < 20_000
            yield task, pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(work))(sent)))


def test_tasks_are_small_and_can_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tree(built(tmp_path / "c", range(50), toy=TRAINED))
    monkeypatch.setattr("rag.collection.collection.executor", lambda *_, **__: Pickled())
    made = built(tmp_path / "d", range(50), toy=TRAINED)
    assert tree(made) == whole
    built(made.path, range(60), toy=TRAINED)
    made.compact()
    check(made)


STEPS: dict[str, Callable[[Collection], Any]] = {
    "first": lambda made: built(made.path, range(40), toy=TRAINED),
    "index": lambda made: built(made.path, [*range(35), *range(100, 125)], toy=TRAINED),
    "add": lambda made: made.add(rows(*range(40, 52)), on_existing="replace", segment_rows=5),
    "add_index": lambda made: made.add_index({"two": Toy(factory="b", sample=9)}),
    "compact": lambda made: made.compact(),
}


def _begun(name: str, path: Path) -> Collection:
    """The collection that a step of ``STEPS`` begins with."""
    if name != "first":
        built(path, range(40), toy=TRAINED).delete(["p3"])
    return Collection(path)


def _killed(
    made: Collection, step: Callable[[Collection], Any], prepare: Any, seconds: Any
) -> bool:
    """Run a step in a process that is killed; False if it came to its end before."""
    child = os.fork()
    if child == 0:
        prepare()
        step(made)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize("name", STEPS)
def test_killed_at_any_folder_it_goes_on(name: str, tmp_path: Path, encoded: list[str]) -> None:
    """A process is killed around each folder that it publishes; what is trained is among them."""
    step, whole = STEPS[name], _begun(name, tmp_path / "whole")
    encoded.clear()
    step(whole)
    new, wanted = len(encoded), tree(whole)
    for number in range(100):
        made = _begun(name, tmp_path / str(number))
        kill = functools.partial(_kill_at, number, after=number % 2 == 0)
        if not _killed(made, step, kill, None):
            break
        encoded.clear()
        step(made)
        assert len(encoded) <= new
        assert tree(made) == wanted
        assert made.verify() == []
    assert number >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_killed_at_any_instant_it_goes_on(name: str, tmp_path: Path) -> None:
    step, whole = STEPS[name], _begun(name, tmp_path / "whole")
    began = time.monotonic()
    step(whole)
    seconds, wanted = time.monotonic() - began, tree(whole)
    dice, kills = np.random.default_rng(7), 0
    for number in range(25):
        made = _begun(name, tmp_path / str(number))
        kills += _killed(made, step, lambda: None, dice.uniform(0, seconds))
        if name != "add" or manifest.numbers(made.path)[-1] == 2:  # or it adds a second time
            step(made)
        assert tree(made) == wanted
        assert made.verify() == []
    assert kills > 5


def _kill_at(number: int, *, after: bool) -> None:
    """Kill this process at the publication with this number, just before or after it."""
    real = folders.publish
    count = itertools.count()

    def publish(folder: Path, parent: Path, key: str) -> str:
        here = next(count) == number
        if here and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        name = real(folder, parent, key)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    vars(folders)["publish"] = publish


def test_a_job_that_ended_at_training_encodes_nothing_again(
    tmp_path: Path, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(index_job, "trained", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if child == 0:
            built(tmp_path / "c", range(40), toy=TRAINED)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    made = built(tmp_path / "c", range(40), toy=TRAINED)
    assert encoded == []
    check(made)
