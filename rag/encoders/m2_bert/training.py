"""What training changes about a model: its length, its dropout, how fast its kernels learn."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from rag.encoders.m2_bert.checkpoint import longer
from rag.encoders.m2_bert.model import M2Bert
from rag.errors import InvalidInput

KERNELS = re.compile(r"\.filter_fn2?\.(implicit_filter\.|freq$)")
"""The parameters that the published code tags with a learning rate of their own, less z."""
POSITIONS = re.compile(r"\.filter_fn2?\.pos_emb\.z$")
SLOW = 1e-5
"""The learning rate of z, which the published code does not decay either."""


def open_encoder(name: str, length: int | None = None) -> Any:
    """A ``SentenceTransformer`` to be trained, on the CPU; of ``length`` tokens where given.

    Raises:
        NotFound, InvalidInput, BackendFailed: as ``load_encoder``, it is no dense encoder, or
            ``length`` is given and it is no M2-BERT, or one that reads more.
    """
    from sentence_transformers import SentenceTransformer

    from rag.encoders.load import folder_of_encoder, load_encoder
    from rag.models.load import quiet

    load_encoder(name, device="cpu")  # refuses what is not safe to load, and says why
    folder = str(folder_of_encoder(name))
    with quiet():
        made = SentenceTransformer(
            folder,
            device="cpu",
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    if length is not None:
        body = made[0].auto_model
        if not isinstance(body, M2Bert):
            raise InvalidInput(
                f"{name}: is a {type(body).__name__}; only an M2-BERT can be made longer, so leave "
                "length out"
            )
        made[0].model = longer(body, length)
        made[0].max_seq_length = length
    return made


def without_dropout(model: nn.Module) -> None:
    """Set all dropout to 0, as the published models were fine-tuned."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def rate_of_kernels(model: nn.Module, optimizer: Any, rate: float, **settings: Any) -> None:
    """Give the kernels' networks the learning rate ``rate``, and z 1e-5.

    As in the published pre-training these are the networks of the kernels that look back, and the
    frequencies; those that look ahead learn as the rest does.

    Args:
        model: holds an `M2Bert`.
        optimizer: of all its parameters, before the first step.
        rate: the highest one; schedules scale it as the others.
        settings: more for the group of the networks, such as ``weight_decay``.

    Raises:
        InvalidInput: the model holds none.
    """
    of = {id(x): name for name, x in model.named_parameters()}
    for pattern, own in (
        (KERNELS, {"lr": rate, **settings}),
        (POSITIONS, {"lr": SLOW, "weight_decay": 0.0}),
    ):
        chosen: list[Any] = []
        for group in optimizer.param_groups:
            found = [x for x in group["params"] if pattern.search("." + of.get(id(x), ""))]
            chosen += found
            taken = set(map(id, found))
            group["params"] = [x for x in group["params"] if id(x) not in taken]
        if not chosen:
            raise InvalidInput("kernel_rate: the model holds no M2-BERT; leave it out")
        optimizer.add_param_group({"params": chosen, **own})
