"""The settings of an M2-BERT, under the names of the published ``config.json``."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from rag.errors import InvalidInput

FIXED = {
    "monarch_mixer_sequence_mixing": True,
    "use_monarch_mlp": True,
    "use_glu_mlp": True,
    "use_positional_encodings": True,
    "bidirectional": True,
    "residual_long_conv": True,
    "hyena_training_additions": False,
    "pool_all": False,
}
"""What all published text encoders have; a config that says otherwise is another model."""

FOREIGN = ("architectures", "auto_map", "model_type", "torch_dtype", "transformers_version")
"""Keys of a published ``config.json`` that speak of its own code."""


class M2BertConfig(PretrainedConfig):  # type: ignore[misc]
    """Sizes and settings of an `M2Bert`; the defaults are those of the 2k model.

    Two settings are Ragstone's own. ``exact_reference`` (false) pads every text with the token
    ``pad_token_id`` to ``max_position_embeddings`` and lets the padding mix in, as the reference
    does; without it a text's vector does not depend on what it is batched with. ``cache_kernels``
    (true) keeps the Fourier transform of every convolution's kernel between calls that need no
    gradient: about 0.3 GB at 2,048 tokens, 1.2 GB at 8,192 and 4.8 GB at 32,768.
    ``pooler`` (false) adds the dense layer and tanh over [CLS].
    """

    model_type = "m2_bert"

    def __init__(
        self,
        *,
        vocab_size: int = 30528,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        intermediate_size: int = 3072,
        max_position_embeddings: int = 2048,
        type_vocab_size: int = 2,
        layer_norm_eps: float = 1e-12,
        hidden_dropout_prob: float = 0.1,
        initializer_range: float = 0.02,
        hyena_emb_dim: int = 5,
        hyena_filter_order: int = 128,
        hyena_w: float = 10.0,
        hyena_w_mod: float = 1.0,
        monarch_mlp_nblocks: int = 4,
        pooler: bool = False,
        exact_reference: bool = False,
        cache_kernels: bool = True,
        pad_token_id: int = 0,
        **others: Any,
    ) -> None:
        """Keep the settings.

        Raises:
            InvalidInput: sizes do not divide, or the config is of another architecture.
        """
        for name, wanted in FIXED.items():
            if (found := others.get(name, wanted)) != wanted:
                raise InvalidInput(
                    f"config of M2-BERT: {name} is {found!r}, but the published text encoders "
                    f"have {wanted!r}, and no other is supported"
                )
        length = others.get("long_conv_l_max", max_position_embeddings)
        if length != max_position_embeddings:
            raise InvalidInput(
                f"config of M2-BERT: long_conv_l_max is {length}, but max_position_embeddings is "
                f"{max_position_embeddings}; they must be equal"
            )
        if hidden_size % monarch_mlp_nblocks or intermediate_size % monarch_mlp_nblocks:
            raise InvalidInput(
                f"config of M2-BERT: monarch_mlp_nblocks {monarch_mlp_nblocks} must divide "
                f"hidden_size {hidden_size} and intermediate_size {intermediate_size}"
            )
        if hyena_emb_dim < 3 or hyena_emb_dim % 2 == 0:
            raise InvalidInput(
                f"config of M2-BERT: hyena_emb_dim is {hyena_emb_dim}; it must be odd and at least "
                "3 (time, cosines and sines)"
            )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout_prob = hidden_dropout_prob
        self.initializer_range = initializer_range
        self.hyena_emb_dim = hyena_emb_dim
        self.hyena_filter_order = hyena_filter_order
        self.hyena_w = hyena_w
        self.hyena_w_mod = hyena_w_mod
        self.monarch_mlp_nblocks = monarch_mlp_nblocks
        self.pooler = pooler
        self.exact_reference = exact_reference
        self.cache_kernels = cache_kernels
        super().__init__(pad_token_id=pad_token_id, **others)
