"""Names that YAML may use, and the classes they stand for.

The built-in ones stand in one table. A plugin is an ordinary package with an entry point in the
group ``rag.stages``, ``rag.backends``, ``rag.indexes`` or ``rag.objectives``, imported when its
name is used. A class defined in the running program (a notebook) is known by the name it gives
itself.
"""

from __future__ import annotations

import difflib
import os
import sys
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from rag.errors import InvalidInput

Group = Literal["stages", "backends", "indexes", "objectives"]

BUILT_IN: dict[str, dict[str, str]] = {
    "stages": {
        "bm25": "rag.retrievers.bm25:BM25",
        "branch": "rag.flow:Branch",
        "collapse": "rag.retrievers.collapse:Collapse",
        "dense": "rag.retrievers.dense:Dense",
        "dupmae": "rag.retrievers.dupmae:DupMAE",
        "expand": "rag.retrievers.expand:Expand",
        "extract": "rag.readers.extract:Extract",
        "fuse": "rag.retrievers.fuse:Fuse",
        "generate": "rag.readers.generate:Generate",
        "pipeline": "rag.flow:SubPipeline",
        "reorder": "rag.readers.reorder:Reorder",
        "repeat": "rag.flow:Repeat",
        "unless": "rag.flow:Unless",
        "rerank": "rag.retrievers.rerank:Rerank",
        "rewrite": "rag.retrievers.rewrite:Rewrite",
        "seal": "rag.retrievers.seal.stage:Seal",
        "sparse": "rag.retrievers.sparse:Sparse",
    },
    "backends": {
        "llama_cpp": "rag.readers.backends.llama_cpp:LlamaCpp",
        "openai": "rag.readers.backends.openai:OpenAI",
        "transformers": "rag.readers.backends.transformers:Transformers",
    },
    "indexes": {
        "dense": "rag.indexers.dense:Dense",
        "dupmae": "rag.indexers.dupmae:DupMAE",
        "lexical": "rag.indexers.lexical:Lexical",
        "ngrams": "rag.indexers.ngrams:NGrams",
        "sparse": "rag.indexers.sparse:Sparse",
    },
    "objectives": {
        "bi_encoder": "rag.training.bi_encoder:BiEncoder",
        "dupmae": "rag.training.dupmae:DupMAE",
        "m2_bert": "rag.training.m2_bert_mlm:M2BertMLM",
        "orthogonal_projection": "rag.training.m2_bert_pairs:OrthogonalProjection",
        "seal": "rag.training.seal:Seal",
        "vdr": "rag.training.vdr:VDR",
    },
}

_defined: dict[tuple[str, str], type] = {}


def define(group: Group, name: str, cls: type) -> None:
    """Make a class of the running program known by ``name``.

    Raises:
        InvalidInput: another class has the name already.
    """
    target = f"{cls.__module__}:{cls.__qualname__}"
    built_in = BUILT_IN[group].get(name)
    if built_in == target:
        return
    earlier = _defined.get((group, name))
    if built_in is not None or (earlier is not None and _target(earlier) != target):
        owner = built_in or _target(earlier)  # type: ignore[arg-type]
        raise InvalidInput(
            f"{group}: the name {name!r} of {target} is taken by {owner}; choose another name"
        )
    _defined[group, name] = cls


def names(group: Group) -> list[str]:
    """All known names of a group, sorted, plugins included."""
    defined = {name for its_group, name in _defined if its_group == group}
    return sorted({*BUILT_IN[group], *defined, *_plugins(group)})


def find(group: Group, name: str) -> Any:
    """The class that ``name`` stands for; imports it.

    Raises:
        InvalidInput: no such name (the message lists those there are and the nearest), or two
            distributions claim it.
    """
    if (group, name) in _defined:
        return _defined[group, name]
    plugins = _plugins(group).get(name, [])
    if name in BUILT_IN[group]:
        if plugins:
            raise InvalidInput(
                f"{group}: {name!r} is built in, and {_owner(plugins[0])} has it too"
            )
        module, _, attribute = BUILT_IN[group][name].partition(":")
        return getattr(import_module(module), attribute)
    if len(plugins) > 1:
        owners = " and ".join(sorted(_owner(plugin) for plugin in plugins))
        raise InvalidInput(f"{group}: both {owners} bring {name!r}; uninstall one of them")
    if plugins:
        return plugins[0].load()
    raise InvalidInput(unknown(group, name))


def unknown(group: Group, name: str) -> str:
    """What to say of a name that is not known: the nearest one, and all there are."""
    known = names(group)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    what = {"stages": "stage", "backends": "backend", "indexes": "index type"}.get(
        group, "objective"
    )
    return f"unknown {what} {name!r}{hint} (known: {', '.join(known)})"


def _plugins(group: Group) -> dict[str, list[EntryPoint]]:
    """The entry points of a group by name, looked up anew when what is installed has changed."""
    return _installed(group, tuple((place, _changed(place)) for place in sys.path))


def _changed(place: str) -> int:
    """When something was last put into a folder; 0 for one that is not there."""
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _installed(group: Group, places: object) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"rag.{group}"):
        found.setdefault(point.name, []).append(point)
    return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _target(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"
