"""M2-BERT: a BERT whose attention is a gated long convolution and whose MLP is block-diagonal.

A layer is h' = LayerNorm(MLP(m) + m) with m = Mixer(h), without residual around the mixer:

    x1, x2, v = ShortConvolution(W_in h)          causal, three positions
    m = W_out (LongConvolution_1(v * x1) * x2 + LongConvolution_2(h))
    MLP(m) = W_down (GELU(a) * b),  a, b = W_up m          W_up and W_down block-diagonal

(Fu et al., *Monarch Mixer*, NeurIPS 2023; Saad-Falcon et al., arXiv 2402.07440, whose published
weights `load_published` reads.) Importing this module makes transformers' ``AutoConfig`` and
``AutoModel`` know the type ``m2_bert``, so that a saved folder loads without remote code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel, initialization
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from rag.encoders.m2_bert.config import M2BertConfig
from rag.encoders.m2_bert.convolution import (
    FASTEST,
    SLOWEST,
    Causal,
    LongConvolution,
    by_spectrum,
    causal,
    features,
    fft_size,
    times,
)
from rag.errors import InvalidInput

ROWS, CHANNELS = 512, 128
"""Tokens of a slice of the MLP, and channels of one of the mixer, without gradients on a CPU: so
they stay in its cache."""


class BlockDiagonal(nn.Module):  # type: ignore[misc]
    """A linear layer whose matrix is ``blocks`` blocks on the diagonal and zero elsewhere."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, outputs // blocks, inputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(blocks, n, inputs / blocks) to (blocks, n, outputs / blocks), without the bias."""
        return torch.bmm(x, self.weight.transpose(1, 2))


class Mlp(nn.Module):  # type: ignore[misc]
    """The gated block-diagonal MLP with its residual and LayerNorm."""

    def __init__(self, config: M2BertConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        blocks = config.monarch_mlp_nblocks
        self.gated_layers = BlockDiagonal(width, 2 * inner, blocks, bias=False)
        self.wo = BlockDiagonal(inner, width, blocks, bias=True)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same shape."""
        rows = x.reshape(-1, x.shape[-1])
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self._rows(rows).view_as(x)
        return torch.cat([self._rows(some) for some in rows.split(ROWS)]).view_as(x)

    def _rows(self, x: Tensor) -> Tensor:
        """(n, width) to the same shape; nothing as wide as ``inner`` is copied."""
        blocks, n = self.wo.weight.shape[0], len(x)
        up = self.gated_layers(x.view(n, blocks, -1).transpose(0, 1))  # (blocks, n, 2 k)
        if blocks % 2:  # a block has outputs of both halves
            up = torch.cat(up.transpose(0, 1).reshape(n, -1).chunk(2, 1)).view(2, n, -1)
        gate, value = up.chunk(2)  # (m, n, r k) each, with m r = blocks
        inner = self.dropout(functional.gelu(gate) * value)
        r = blocks // len(inner)
        down = [
            torch.bmm(some, self.wo.weight[j::r].transpose(1, 2))  # (m, n, width / blocks)
            for j, some in enumerate(inner.chunk(r, 2))
        ]
        y = torch.stack(down, 1).flatten(0, 1).transpose(0, 1).reshape(n, -1)
        normed: Tensor = self.layernorm(y + self.wo.bias + x)
        return normed


class Mixer(nn.Module):  # type: ignore[misc]
    """The gated long convolution, in the place of BERT's attention."""

    def __init__(self, config: M2BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.in_linear = nn.Linear(width, 3 * width)
        self.out_linear = nn.Linear(width, width)
        self.short_filter = nn.Conv1d(3 * width, 3 * width, 3, groups=3 * width, padding=2)
        self.filter_fn, self.filter_fn2 = (
            LongConvolution(
                width,
                config.max_position_embeddings,
                inputs=config.hyena_emb_dim,
                hidden=config.hyena_filter_order,
                w=config.hyena_w,
                w_mod=config.hyena_w_mod,
            )
            for _ in range(2)
        )
        self.filter_fn.keep = self.filter_fn2.keep = config.cache_kernels

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        """Mix h, (batch, length, width); positions where ``mask`` (batch, 1, length) is 0 add none.

        A masked position is as good as absent: what reaches a convolution from it is zero.
        """
        # (batch, width, length), as the convolutions want it; copied once, not in each of them
        u, p = h.transpose(1, 2), self.in_linear(h).transpose(1, 2).contiguous()
        if mask is not None:
            u, p = u * mask, p * mask
        whole = torch.is_grad_enabled() or h.device.type != "cpu"
        y = self._at_once(u, p, mask) if whole else self._in_slices(u, p, mask)
        mixed: Tensor = self.out_linear(y.transpose(1, 2))
        return mixed

    def _at_once(self, u: Tensor, p: Tensor, mask: Tensor | None) -> Tensor:
        """Convolve and gate u and its projections p, (batch, 3 width, length), to u's shape."""
        weight, bias = (x.to(p.dtype) for x in (self.short_filter.weight, self.short_filter.bias))
        x1, x2, v = Causal.apply(p, weight, bias).chunk(3, dim=1)
        gated = v * x1
        if mask is not None:
            gated = gated * mask
        y: Tensor = self.filter_fn(gated) * x2 + self.filter_fn2(u)
        return y

    def _in_slices(self, u: Tensor, p: Tensor, mask: Tensor | None) -> Tensor:
        """The same without gradients, a few channels at a time."""
        width, size = u.shape[1], fft_size(u.shape[2])
        form = torch.promote_types(u.dtype, torch.float32)
        weight, bias = (x.to(p.dtype) for x in (self.short_filter.weight, self.short_filter.bias))
        y = torch.empty_like(u, memory_format=torch.contiguous_format)
        with torch.autocast("cpu", enabled=False):
            gates, around = (f.kept(size) for f in (self.filter_fn, self.filter_fn2))
            for start in range(0, width, CHANNELS):
                some = slice(start, start + CHANNELS)
                x1, x2, v = (
                    causal(its[:, some], w[some], b[some])
                    for its, w, b in zip(
                        *(x.chunk(3, d) for x, d in ((p, 1), (weight, 0), (bias, 0))), strict=True
                    )
                )
                gated = v.mul_(x1) if mask is None else v.mul_(x1).mul_(mask)
                made = by_spectrum(gated.to(form), gates[some], size) * x2
                y[:, some] = made + by_spectrum(u[:, some].to(form), around[some], size)
        return y


class Layer(GradientCheckpointingLayer):  # type: ignore[misc]
    """Mixer, then MLP."""

    def __init__(self, config: M2BertConfig) -> None:
        super().__init__()
        self.attention = Mixer(config)  # the name in published files
        self.mlp = Mlp(config)

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, length, width) to the same shape."""
        mixed: Tensor = self.mlp(self.attention(h, mask))
        return mixed


class Embeddings(nn.Module):  # type: ignore[misc]
    """Word, token type and absolute position."""

    def __init__(self, config: M2BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(
            config.vocab_size, width, padding_idx=config.pad_token_id
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, types: Tensor, positions: Tensor) -> Tensor:
        """(batch, length, width) of word vectors of that shape and two (batch, length) int64."""
        summed = words + self.token_type_embeddings(types) + self.position_embeddings(positions)
        embedded: Tensor = self.dropout(self.LayerNorm(summed))
        return embedded


class Layers(nn.Module):  # type: ignore[misc]
    """All layers, under the name ``encoder.layer`` of published files."""

    def __init__(self, config: M2BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class Pooler(nn.Module):  # type: ignore[misc]
    """tanh of a dense layer over [CLS]; no normalisation follows."""

    def __init__(self, config: M2BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """(batch, width) to the same shape."""
        return torch.tanh(self.dense(first))


class M2Bert(PreTrainedModel):  # type: ignore[misc]
    """Token ids to a vector for each token, and with ``config.pooler`` one for each text.

    Padding may stand on either side. A text's vectors do not depend on the texts that it is batched
    with, to float rounding, unless ``config.exact_reference`` asks for what the reference does.
    """

    config_class = M2BertConfig
    base_model_prefix = "bert"
    _keep_in_fp32_modules_strict = ("filter_fn", "filter_fn2")  # sin(10 x) needs them whole
    _no_split_modules = ("Layer",)
    supports_gradient_checkpointing = True

    def __init__(self, config: M2BertConfig) -> None:
        """Make the model with random weights."""
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config)
        self.pooler = Pooler(config) if config.pooler else None
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **settings: Any) -> Any:
        """Load a folder that ``save_pretrained`` wrote, as transformers' own method does.

        Raises:
            InvalidInput: weights are missing or left over, as they are in a published folder.
        """
        model, found = super().from_pretrained(*args, output_loading_info=True, **settings)
        wrong = {
            "missing": sorted(found["missing_keys"]),
            "left over": sorted(found["unexpected_keys"]),
        }
        lines = [f"{len(k)} {kind}, such as {k[0]}" for kind, k in wrong.items() if k]
        if lines:
            raise InvalidInput(
                f"{args[0] if args else 'M2-BERT'}: its keys are not those of a saved M2-BERT: "
                f"{'; '.join(lines)}; rag.encoders.m2_bert.convert reads a published folder"
            )
        return (model, found) if output_loading_info else model

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set one module to what it is before training."""
        config = self.config
        if isinstance(module, (nn.Linear, nn.Embedding, BlockDiagonal)):
            initialization.normal_(module.weight, std=config.initializer_range)
            if getattr(module, "bias", None) is not None:
                initialization.zeros_(module.bias)
            if getattr(module, "padding_idx", None) is not None:
                initialization.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.Conv1d):
            bound = module.kernel_size[0] ** -0.5  # torch's own: each channel has three inputs
            initialization.uniform_(module.weight, -bound, bound)
            initialization.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, LongConvolution):
            initialization.normal_(module.bias)
            initialization.constant_(module.freq, module.w)
            position, deltas = module.pos_emb, module.modulation.deltas
            _, length, count = position.z.shape
            initialization.copy_(position.z, features(length, count))
            initialization.copy_(position.t, times(length))
            slopes = torch.linspace(SLOWEST, FASTEST, deltas.shape[-1])
            initialization.copy_(deltas, slopes[None, None])

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """Encode a batch.

        Args:
            input_ids: (batch, length) int64; or else ``inputs_embeds``.
            attention_mask: (batch, length), 1 for tokens and 0 for padding; absent: all are tokens.
            token_type_ids: (batch, length) int64; absent: all 0.
            inputs_embeds: (batch, length, width) instead of ``input_ids``.
            return_dict: false for a tuple.

        Returns:
            ``last_hidden_state`` (batch, length, width), and ``pooler_output`` (batch, width) with
            ``config.pooler``, else None.

        Raises:
            InvalidInput: the texts are longer than the model, or neither or both inputs are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InvalidInput("M2-BERT: give either input_ids or inputs_embeds, and not both")
        words = (
            self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        )
        batch, length, _ = words.shape
        longest = self.config.max_position_embeddings
        if length > longest:
            raise InvalidInput(
                f"M2-BERT: a text has {length} tokens, but the model reads at most {longest}; cut "
                "it (max_seq_length), or use a longer model"
            )
        if token_type_ids is None:
            token_type_ids = words.new_zeros((batch, length), dtype=torch.int64)
        if self.config.exact_reference:
            words, token_type_ids = self._padded(words, token_type_ids, attention_mask)
            attention_mask = None
        if attention_mask is None:
            mask, start = None, None
            positions = torch.arange(words.shape[1], device=words.device)[None]
        else:
            mask = attention_mask[:, None].to(words.dtype)  # (batch, 1, length)
            positions = (attention_mask.long().cumsum(1) - 1).clamp_min(0)
            start = attention_mask.long().argmax(1)  # where [CLS] stands
        hidden = self.embeddings(words, token_type_ids, positions)
        for layer in self.encoder.layer:
            hidden = layer(hidden, mask)
        hidden = hidden[:, :length]
        pooled = None
        if self.pooler is not None:
            rows = torch.arange(batch, device=hidden.device)
            pooled = self.pooler(hidden[:, 0] if start is None else hidden[rows, start])
        if return_dict is False:
            return hidden, pooled
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

    def _padded(
        self, words: Tensor, types: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Word vectors and token types with the padding token up to the full length."""
        batch, length, width = words.shape
        pad = self.embeddings.word_embeddings.weight[self.config.pad_token_id].to(words.dtype)
        if attention_mask is not None:
            if not attention_mask[:, 0].all():
                raise InvalidInput(
                    "M2-BERT: exact_reference pads on the right, as the reference does, but a text "
                    "here begins with padding; set the tokenizer's padding_side to right"
                )
            words = torch.where(attention_mask[..., None] > 0, words, pad)
        more = self.config.max_position_embeddings - length
        words = torch.cat([words, pad.expand(batch, more, width)], dim=1)
        return words, functional.pad(types, (0, more))


AutoConfig.register("m2_bert", M2BertConfig, exist_ok=True)
AutoModel.register(M2BertConfig, M2Bert, exist_ok=True)
