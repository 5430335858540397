"""Training: recipes in YAML, run by the trainers of transformers.

The files of this room, in the order that a recipe passes them:

    recipe       the YAML file: objective, model, data, what is held back, how long, seed
    data         documents and judged questions, cut into a training side and one held back
    objective    the contract: what an objective makes of the training side, its loss, its score
    loop         the trainer, its order of rows and its checkpoints
    run          all of it together: ``train``
    report       what came out, for people and machines
    seal*        the objective ``seal``; the other objectives lie beside it

Like the command line this room is a roof: it imports all others. Names are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.training.data import Side as Side
    from rag.training.data import Split as Split
    from rag.training.objective import Objective as Objective
    from rag.training.objective import Task as Task
    from rag.training.recipe import Recipe as Recipe
    from rag.training.recipe import load_recipe as load_recipe
    from rag.training.run import Trained as Trained
    from rag.training.run import train as train

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Objective": "objective",
        "Recipe": "recipe",
        "Side": "data",
        "Split": "data",
        "Task": "objective",
        "Trained": "run",
        "load_recipe": "recipe",
        "train": "run",
    },
)
