"""VDR and its semi-parametric form (SVDR): texts as weights of a vocabulary's terms.

Zhou et al., "Retrieval-based Disentangled Representation Learning with Natural Language
Supervision" (ICLR 2024) and "Semi-Parametric Retrieval via Binary Bag-of-Tokens Index"
(arXiv 2405.01924), and the code published with them (jzhoubu/vsearch), whose values these are,
but for one thing: padding does not count here, so that a vector does not depend on its batch.

    model     VDR: the encoder of one tower
    views     the top k terms of a vector, the bag of a text's own tokens
    losses    two terms (VDR) or four (SVDR)
    checkpoint   of one or two towers
    bags      Bags: the bag of tokens, which needs a tokenizer and no model
    encoder   VDREncoder: what ``load_encoder`` gives; ``explain``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.encoders.vdr.bags import Bags as Bags
    from rag.encoders.vdr.checkpoint import from_bert as from_bert
    from rag.encoders.vdr.checkpoint import load as load
    from rag.encoders.vdr.checkpoint import towers as towers
    from rag.encoders.vdr.encoder import VDREncoder as VDREncoder
    from rag.encoders.vdr.losses import VDRLoss as VDRLoss
    from rag.encoders.vdr.losses import vdr_loss as vdr_loss
    from rag.encoders.vdr.model import VDR as VDR
    from rag.encoders.vdr.model import VDRConfig as VDRConfig

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "VDR": "model",
        "Bags": "bags",
        "VDRConfig": "model",
        "VDREncoder": "encoder",
        "VDRLoss": "losses",
        "from_bert": "checkpoint",
        "load": "checkpoint",
        "towers": "checkpoint",
        "vdr_loss": "losses",
    },
)
