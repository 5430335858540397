"""A stage as an installed package brings it, found by child processes too."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator

import pytest

SLOWLY = '''
"""A stage that takes its time, keeps a list of the rows it was given, and fails some."""
import os, signal, time
from rag import Stage

class Slowly(Stage, name="slowly"):
    """Answer with the question spelt backwards."""
    folder: str
    pause: float = 0.0
    model: str = ""

    def columns(self, have):
        return have.put(answer="str")

    def open(self, context):
        def step(batch, run):
            with open(self.folder + "/rows.txt", "a") as file:
                file.write("".join(f"{name}\\n" for name in batch.ids))
            time.sleep(self.pause)
            if any("kill" in question for question in batch["question"]):
                os.kill(os.getpid(), signal.SIGKILL)
            for row, question in enumerate(batch["question"]):
                if "fail" in question:
                    run.fail(row, ValueError("as the script says"))
            return batch.put(answer=[f"{text[::-1]} {run.seed}" for text in batch["question"]])
        return step
'''


@pytest.fixture(scope="session")
def slowly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The stage ``slowly`` is installed, for this process and those it starts."""
    from rag import registry

    home = tmp_path_factory.mktemp("plugin")
    info = home / "slowly-1.0.dist-info"
    info.mkdir()
    (home / "slowly_stage.py").write_text(SLOWLY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slowly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rag.stages]\nslowly = slowly_stage:Slowly\n")
    paths = [str(home), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        importlib.invalidate_caches()
        yield
    registry._defined.pop(("stages", "slowly"), None)
    sys.modules.pop("slowly_stage", None)
