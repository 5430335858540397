"""The encoder of one tower of VDR."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

POSITIONS = 2048
"""So many positions are multiplied with the vocabulary at a time, which bounds memory."""


class VDRConfig(BertConfig):  # type: ignore[misc]
    """A BERT's settings and those of VDR.

    shift_vocab_num: so many columns at the beginning of the vocabulary are 0: padding, unused
        tokens and special ones. 999 in the newer checkpoints, 1000 in the older ones.
    topk: the terms of a vector that are kept; -1: all.
    max_len: the most tokens of a text, special ones included.
    """

    model_type = "vdr"

    def __init__(
        self, shift_vocab_num: int = 999, topk: int = 768, max_len: int = 256, **bert: Any
    ) -> None:
        """Take VDR's settings; the others are ``BertConfig``'s."""
        super().__init__(**bert)
        self.shift_vocab_num, self.topk, self.max_len = shift_vocab_num, topk, max_len


def elu1p(x: Tensor) -> Tensor:
    """elu(x) + 1: exp(x) below 0, x + 1 above; always positive and rising."""
    return F.elu(x) + 1


class VDR(PreTrainedModel):  # type: ignore[misc]
    """A text's weight for each term of the vocabulary.

    With h_i the BERT's last hidden state at position i, E its word embeddings and s the shift:

        v_t = max over i of elu1p(LayerNorm(h_i) . E_t)   for t >= s, 0 for t < s

    over all positions but padding, [CLS] and [SEP] included. The published code has V - s columns
    and lets padding count; the V here let a tokenizer name every column. Weights are named as in
    the published checkpoints: ``ln.*`` and ``bert_model.*``.
    """

    config_class = VDRConfig
    base_model_prefix = ""

    def __init__(self, config: VDRConfig) -> None:
        """Draw weights as BERT does."""
        super().__init__(config)
        self.ln = nn.LayerNorm(config.hidden_size, eps=1e-5)
        self.bert_model = BertModel(config, add_pooling_layer=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Encode a batch.

        Args:
            input_ids: (n, l) int64.
            attention_mask: (n, l), 0 at padding; default: no padding.
            token_type_ids: (n, l) int64; default: zeros.

        Returns:
            ``pooler_output`` (n, V), the vectors, and ``last_hidden_state`` (n, l, d) of the BERT.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.bert_model(
            input_ids=input_ids, attention_mask=mask, token_type_ids=token_type_ids
        ).last_hidden_state
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden, pooler_output=self.pooled(hidden, mask.bool())
        )

    def pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The vectors (n, V) of hidden states (n, l, d); ``mask`` (n, l) bool, False at padding."""
        shift = self.config.shift_vocab_num
        words = self.bert_model.embeddings.word_embeddings.weight[shift:]  # (V - s, d)
        hidden = self.ln(hidden)
        rows = max(1, POSITIONS // hidden.shape[1])
        found = []
        for states, real in zip(hidden.split(rows), mask.split(rows), strict=True):
            logits = states @ words.T  # (rows, l, V - s)
            found.append(logits.masked_fill(~real[..., None], -torch.inf).max(1).values)
        # elu1p rises, so that it may come after the maximum.
        return F.pad(elu1p(torch.cat(found)), (shift, 0))


AutoConfig.register("vdr", VDRConfig, exist_ok=True)
AutoModel.register(VDRConfig, VDR, exist_ok=True)
