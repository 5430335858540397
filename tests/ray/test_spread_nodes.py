"""Shards on several nodes: one that goes takes its shard away, and another opens it again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from rag import Collection, Pipeline
from rag.ray_shards import RayShards
from rag.retrievers import BM25
from tests.ray.conftest import Nodes, started

pytestmark = pytest.mark.slow


@pytest.fixture
def own(plugin: Path, room: Path) -> Iterator[Nodes]:
    """A cluster of three nodes that a test may break."""
    with started(plugin, 3) as found:
        yield found


def test_the_shard_of_a_lost_node_is_opened_on_another(own: Nodes, tmp_path: Path) -> None:
    rows = [{"id": f"p{n}", "text": f"word{n % 7} word{n % 11} every"} for n in range(60)]
    wiki, _ = Collection.build(rows, tmp_path / "c", segment_rows=15)
    asked = [f"word{n}" for n in range(11)]
    with Pipeline([BM25(top_k=60)], wiki) as pipeline:
        expected = pipeline.run(asked)["documents"]
    with (
        wiki.spread(shards=3, ray=own.address, partial="ok") as snapshot,
        Pipeline([BM25(top_k=60)], snapshot) as pipeline,
    ):
        shards = snapshot.shards
        assert isinstance(shards, RayShards)
        assert pipeline.run(asked)["documents"] == expected
        homes = shards.nodes()
        assert len(set(homes)) == 3  # spread over the nodes
        lost = next(n for n, home in enumerate(homes) if home != own.cluster.head_node.node_id)
        node = next(n for n in own.cluster.worker_nodes if n.node_id == homes[lost])
        process = shards.processes()[lost][1]
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        os.kill(process, signal.SIGKILL)
        first = pipeline.run(asked)
        assert all(f"shard {lost + 1} of 3" in said for said in first["partial"])
        end = time.monotonic() + 120
        while "partial" in (batch := pipeline.run(asked)):
            assert time.monotonic() < end
            time.sleep(0.2)
        assert batch["documents"] == expected
        assert shards.nodes()[lost] in set(homes) - {homes[lost]}
