"""Batches of SEAL's training: prompts that are computed once for all the n-grams behind them.

A causal model gets a row for each question: a tree, whose stem is what all prompts of the question
begin with and whose branches are the n-grams. Attention lets a token see its own ancestors, and its
position is its depth, so a branch is computed as though it stood alone behind its prompt (the
decoder's rows are made the same way: ``rag.retrievers.seal.packed``). N-grams that begin alike
share their tokens. A sequence-to-sequence model encodes a prompt once, and each of its n-grams is a
row of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from rag.retrievers.seal.forward import at
from rag.retrievers.seal.packed import Trie

Groups: TypeAlias = "Sequence[tuple[Sequence[Sequence[int]], Sequence[Target]]]"
"""Prompts, as token ids, and the targets behind them; one for each question."""


class Target(NamedTuple):
    """Token ids to be written behind the prompt of a number, counted ``weight`` times."""

    prompt: int
    ids: Sequence[int]
    weight: float


def causal_batch(groups: Groups) -> dict[str, Any]:
    """A row for each group of prompts (token ids) with the targets behind them.

    Returns:
        ``input_ids``, ``position_ids`` (rows, length) int64, ``seen`` (rows, 1, length, length)
        bool, and of the n things to be predicted ``places`` (n,) of rows x length, ``targets`` (n,)
        and ``weights`` (n,) float32.
    """
    trie = Trie()
    edges: list[tuple[int, int, float]] = []  # node, what follows it, how often
    for row, (prompts, targets) in enumerate(groups):
        for prompt, ids, weight in targets:
            stem = list(prompts[prompt])
            path = trie.add(row, [*stem, *ids[:-1]])[len(stem) - 1 :]
            edges += [(node, token, weight) for node, token in zip(path, ids, strict=True)]
    rows_of = np.asarray(trie.roots)
    parents = np.asarray(trie.parents)
    counts = np.bincount(rows_of, minlength=len(groups))
    order = np.argsort(rows_of, kind="stable")
    column = np.empty(len(trie), np.int64)
    column[order] = np.arange(len(trie)) - np.repeat(np.cumsum(counts) - counts, counts)
    length = int(counts.max())
    seen = np.zeros((len(trie), length), bool)
    depth = np.zeros(len(trie), np.int64)
    seen[np.arange(len(trie)), column] = True
    for node in np.flatnonzero(parents >= 0):  # a parent stands before its children
        seen[node] |= seen[parents[node]]
        depth[node] = depth[parents[node]] + 1
    ids_, positions = np.zeros((2, len(groups), length), np.int64)
    ids_[rows_of, column], positions[rows_of, column] = trie.tokens, depth
    mask = np.zeros((len(groups), 1, length, length), bool)
    mask[:, 0, :, 0] = True  # what pads sees something: a softmax of nothing is no number
    mask[rows_of, 0, column] = seen
    nodes, tokens, weights = zip(*edges, strict=True)
    which = np.asarray(nodes)
    return {
        "input_ids": torch.from_numpy(ids_),
        "position_ids": torch.from_numpy(positions),
        "seen": torch.from_numpy(mask),
        "places": torch.from_numpy(rows_of[which] * length + column[which]),
        "targets": torch.tensor(tokens),
        "weights": torch.tensor(weights, dtype=torch.float32),
    }


def causal_logits(model: Any, batch: dict[str, Any]) -> Tensor:
    """The logits at ``places``, (n, V)."""
    hidden = torch.finfo(model.dtype).min
    mask = torch.zeros(batch["seen"].shape, dtype=model.dtype, device=batch["seen"].device)
    mask = mask.masked_fill(~batch["seen"], hidden)
    with at(model.get_output_embeddings(), batch["places"]):
        out = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=mask,
            use_cache=False,
        )
    return out.logits[0]


def two_sided_batch(groups: Groups, *, pad: int, start: int) -> dict[str, Any]:
    """Prompts for the encoder and a row of the decoder for each target.

    Returns:
        ``input_ids``, ``attention_mask`` (prompts, longest), ``owners`` (targets,) the prompt of
        each, ``decoder_input_ids``, ``decoder_attention_mask`` (targets, longest), and ``places``,
        ``targets``, ``weights`` as ``causal_batch`` has them, of targets x longest.
    """
    prompts: list[Sequence[int]] = []
    rows: list[tuple[int, Sequence[int], float]] = []
    for its, targets in groups:
        used = sorted({target.prompt for target in targets})
        first = {number: len(prompts) + at_ for at_, number in enumerate(used)}
        prompts += [its[number] for number in used]
        rows += [(first[target.prompt], target.ids, target.weight) for target in targets]
    input_ids, attention = _padded(prompts, pad)
    written = [[start, *ids[:-1]] for _, ids, _ in rows]
    decoder_ids, decoder_attention = _padded(written, pad)
    length = decoder_ids.shape[1]
    places = [row * length + at_ for row, (_, ids, _) in enumerate(rows) for at_ in range(len(ids))]
    return {
        "input_ids": input_ids,
        "attention_mask": attention,
        "owners": torch.tensor([owner for owner, _, _ in rows]),
        "decoder_input_ids": decoder_ids,
        "decoder_attention_mask": decoder_attention,
        "places": torch.tensor(places),
        "targets": torch.tensor([token for _, ids, _ in rows for token in ids]),
        "weights": torch.tensor([w for _, ids, w in rows for _ in ids], dtype=torch.float32),
    }


def two_sided_logits(model: Any, batch: dict[str, Any]) -> Tensor:
    """The logits at ``places``, (n, V); each prompt goes through the encoder once."""
    from transformers.modeling_outputs import BaseModelOutput

    encoder = model.get_encoder()
    states = encoder(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state
    owners = batch["owners"]
    with at(model.get_output_embeddings(), batch["places"]):
        out = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states[owners]),
            attention_mask=batch["attention_mask"][owners],
            decoder_input_ids=batch["decoder_input_ids"],
            decoder_attention_mask=batch["decoder_attention_mask"],
            use_cache=False,
        )
    return out.logits[0]


def weighted_loss(logits: Tensor, batch: dict[str, Any], smoothing: float) -> Tensor:
    """Cross-entropy with smoothed labels, the weighted mean over what is to be predicted."""
    each = torch.nn.functional.cross_entropy(
        logits.float(), batch["targets"], reduction="none", label_smoothing=smoothing
    )
    return (each * batch["weights"]).sum() / batch["weights"].sum()


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows padded at their ends, and where they are not: (rows, longest) int64 each."""
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return ids, mask
