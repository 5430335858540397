"""The duplex model: an encoder whose vectors must rebuild the text in two ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

IGNORED = -100
"""The label of a position that is not predicted."""

BOW_WEIGHT = 0.1
"""What the bag-of-words loss counts in the published code; the paper (Eq. 9) has 1."""


class DuplexDecoder(nn.Module):  # type: ignore[misc]
    """One post-norm BERT layer whose queries, keys and values come from two sequences.

    The residual of its attention is the query sequence, and each query has a mask of its own:

        a = LayerNorm(q + Dense(softmax(Q(q) K(x)^T / sqrt(d / heads) + mask) V(x)))
        out = LayerNorm(a + Dense(act(Dense(a))))

    Initialised as BERT is: normal weights of ``config.initializer_range``, biases 0. No published
    checkpoint holds a decoder, so the names of its weights are ours.
    """

    def __init__(self, config: Any) -> None:
        """Take sizes, activation and dropout from a ``BertConfig``."""
        super().__init__()
        d = config.hidden_size
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.dense = nn.Linear(d, d)
        self.attention_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.up = nn.Linear(d, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, d)
        self.norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.attention_dropout = config.attention_probs_dropout_prob
        self.act = ACT2FN[config.hidden_act]
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)
                nn.init.zeros_(module.bias)

    def forward(self, queries: Tensor, context: Tensor, visible: Tensor) -> Tensor:
        """Decode.

        Args:
            queries: (B, L, d), what is asked at each position.
            context: (B, L, d), keys and values.
            visible: (B, L, L), not 0 where the query of a row sees a column. A row that sees
                nothing (padding) sees all alike, so that nothing becomes NaN.

        Returns:
            (B, L, d).
        """
        mask = torch.zeros(visible.shape, dtype=queries.dtype, device=queries.device)
        mask = mask.masked_fill(visible == 0, torch.finfo(queries.dtype).min)
        attended = F.scaled_dot_product_attention(
            self._split(self.query(queries)),
            self._split(self.key(context)),
            self._split(self.value(context)),
            attn_mask=mask[:, None],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )  # (B, heads, L, d / heads)
        joined = attended.transpose(1, 2).flatten(2)  # (B, L, d)
        hidden = self.attention_norm(queries + self.dropout(self.dense(joined)))
        out: Tensor = self.norm(hidden + self.dropout(self.down(self.act(self.up(hidden)))))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, d / heads)


class DupMAE(nn.Module):  # type: ignore[misc]
    """A ``BertForMaskedLM`` with the two tasks of duplex auto-encoding.

    With h = the encoder's last hidden states on the corrupted text, and Emb its embedding block
    (words, positions, types, LayerNorm, dropout):

    - ``mlm``: cross-entropy of the encoder's masked tokens.
    - ``decoder``: one layer (``DuplexDecoder``) rebuilds every token of the text. Queries are
      Emb(h_[CLS] in place of all words), keys and values [h_[CLS]; Emb(original)[1:]], and a
      position sees only what its row of ``visible`` shows. Cross-entropy by the same head.
    - ``bow``: the largest logit of each vocabulary entry over the positions 1.. of the text must
      give the words of the text: -sum_v bag_v log_softmax(max_i logits_i)_v, mean over texts.
    - ``loss`` = decoder + ``bow_weight`` * bow + mlm.

    Where paper and published code differ, this is the code: the head of ``bow`` is the whole MLM
    head (paper, Eq. 6: a linear projection); its maximum runs over masked positions and [SEP] as
    well (paper: ordinary tokens that are not masked); the bag is divided by the length of the text
    (``masks.Collator``; Eq. 8: not) and counts 0.1 (Eq. 9: 1). Version 1 of RetroMAE has queries
    without LayerNorm and types, and no ``bow``; it is not offered.

    It trains with the ``Trainer`` of transformers: batches come from ``masks.Collator``.
    """

    def __init__(self, encoder: Any, *, bow_weight: float = BOW_WEIGHT) -> None:
        """Add a fresh decoder to a ``BertForMaskedLM`` (``load.warm_start``)."""
        super().__init__()
        self.encoder = encoder
        self.decoder = DuplexDecoder(encoder.config)
        self.bow_weight = bow_weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        original_ids: Tensor,
        visible: Tensor,
        decoder_labels: Tensor,
        bag: Tensor,
    ) -> dict[str, Tensor]:
        """The losses of a batch of B texts of at most L tokens.

        Args:
            input_ids: (B, L) int64, [CLS] first, corrupted for the encoder.
            attention_mask: (B, L), 1 for tokens, 0 for padding.
            labels: (B, L) int64, the masked tokens; -100 elsewhere.
            original_ids: (B, L) int64, nothing corrupted.
            visible: (B, L, L), not 0 where the decoder of a row sees a column.
            decoder_labels: (B, L) int64, all tokens; -100 for [CLS], the last one and padding.
            bag: (B, V) float, the target over the vocabulary (or its first entries).

        Returns:
            ``loss``, ``decoder``, ``bow`` and ``mlm``, each a scalar.
        """
        hidden = self.encoder.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.encoder.cls(hidden)  # (B, L, V)
        mlm = _cross_entropy(logits, labels)
        bow = self._bag_loss(logits, attention_mask, bag)
        embed, cls = self.encoder.bert.embeddings, hidden[:, :1]  # (B, 1, d)
        context = torch.cat([cls, embed(input_ids=original_ids)[:, 1:]], dim=1)  # (B, L, d)
        queries = embed(inputs_embeds=cls.expand_as(hidden))
        decoded = self.encoder.cls(self.decoder(queries, context, visible))
        decoder = _cross_entropy(decoded, decoder_labels)
        loss = decoder + self.bow_weight * bow + mlm
        return {"loss": loss, "decoder": decoder, "bow": bow, "mlm": mlm}

    def save_encoder(self, folder: Path | str) -> None:
        """Save encoder and MLM head as RetroMAE does: a ``BertForMaskedLM``, without decoder."""
        self.encoder.save_pretrained(folder)

    @staticmethod
    def _bag_loss(logits: Tensor, attention_mask: Tensor, bag: Tensor) -> Tensor:
        predicted = token_max(logits, attention_mask).log_softmax(-1)[:, : bag.shape[1]]
        return -(bag * predicted).sum(-1).mean()


def token_max(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """The largest logit of each vocabulary entry over the positions 1.. of each text.

    [CLS] at position 0 and padding are left out; [SEP] counts, as in the published code. Padding
    is left out by the smallest number there is, where that code adds -1000.

    Args:
        logits: (B, L, V).
        attention_mask: (B, L), 0 for padding.

    Returns:
        (B, V).
    """
    padding = attention_mask[:, 1:, None] == 0
    found: Tensor = logits[:, 1:].masked_fill(padding, torch.finfo(logits.dtype).min).max(1).values
    return found


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over labelled positions; 0, and not NaN, where none is."""
    total = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (labels != IGNORED).sum().clamp(min=1)
