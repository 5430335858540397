"""From YAML to a pipeline.

The files of this room, in the order that a YAML file passes them:

    yaml_nodes   the file as a tree in which every key and value keeps its position
    scalars      what a plain word means, and ``${NAME}``
    validate     a part of the tree against a pydantic model, in plain words
    stages       the list of stages, and the columns that they pass on
    index        the index file
    load         all of it together: ``load_pipeline``, ``load_index``, ``problems``
    report       the problems found on the way
    schema       the JSON schema for editors
    draw         a pipeline as a picture: SVG, or text for Mermaid
    run_job      questions from file to file, as a job: ``run_rows`` reads and writes the rows,
                 ``run_key`` says what a result hangs on, ``run_work`` does a part,
                 ``run_parts`` keeps it

Names are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.pipelines.draw import mermaid as mermaid
    from rag.pipelines.draw import svg as svg
    from rag.pipelines.index import IndexFile as IndexFile
    from rag.pipelines.load import load_index as load_index
    from rag.pipelines.load import load_pipeline as load_pipeline
    from rag.pipelines.load import problems as problems
    from rag.pipelines.load import shipped as shipped
    from rag.pipelines.run_job import RunDone as RunDone
    from rag.pipelines.run_job import run_file as run_file
    from rag.pipelines.schema import json_schema as json_schema

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "IndexFile": "index",
        "RunDone": "run_job",
        "json_schema": "schema",
        "load_index": "load",
        "load_pipeline": "load",
        "mermaid": "draw",
        "problems": "load",
        "run_file": "run_job",
        "shipped": "load",
        "svg": "draw",
    },
)
