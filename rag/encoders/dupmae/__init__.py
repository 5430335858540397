"""DupMAE (RetroMAE v2): pre-training of a BERT for retrieval, and its vectors.

Xiao et al., "RetroMAE-2: Duplex Masked Auto-Encoder For Pre-Training Retrieval-Oriented Language
Models", ACL 2023, and the code published with it (staoxiao/RetroMAE). Where the two differ, each
docstring says which one is followed: for pre-training the code, which made the checkpoints; for the
representation the paper, since the code has none.

    model       DupMAE: the duplex model and its three losses
    masks       Collator: texts to batches, with whole-word masks
    load        warm start from any BERT, checkpoints of RetroMAE, what differs in a state dict
    represent   Unified: [CLS] reduced, and a weight for each token of the vocabulary
    module      UnifiedModule: Unified as a module of sentence-transformers
    store       ForwardStore: what is kept of documents, and the exact score
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.encoders.dupmae.load import masked_lm as masked_lm
    from rag.encoders.dupmae.load import save_cls_encoder as save_cls_encoder
    from rag.encoders.dupmae.load import warm_start as warm_start
    from rag.encoders.dupmae.masks import Collator as Collator
    from rag.encoders.dupmae.model import DupMAE as DupMAE
    from rag.encoders.dupmae.module import UnifiedModule as UnifiedModule
    from rag.encoders.dupmae.represent import Unified as Unified
    from rag.encoders.dupmae.store import ForwardStore as ForwardStore

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Collator": "masks",
        "DupMAE": "model",
        "ForwardStore": "store",
        "Unified": "represent",
        "UnifiedModule": "module",
        "masked_lm": "load",
        "save_cls_encoder": "load",
        "warm_start": "load",
    },
)
