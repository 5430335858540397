"""M2-BERT: an encoder of 128 to 32,768 tokens without attention, and its published weights.

Importing this package imports torch, unlike most: it makes transformers' ``AutoConfig`` and
``AutoModel`` know the type ``m2_bert``, so that a saved folder opens without remote code.

    config        M2BertConfig: sizes and settings
    convolution   kernels that small networks write, applied by FFT
    model         M2Bert: mixers and block-diagonal MLPs
    checkpoint    published weights key by key; a longer model from a shorter one
    loss          pairs to cosine 1 and 0
    saving        a folder of sentence-transformers
    training      such a folder opened to be trained; rates of the kernels
    masked        a head for masked tokens
"""

from rag.encoders.m2_bert.checkpoint import from_published, load_published, longer
from rag.encoders.m2_bert.config import M2BertConfig
from rag.encoders.m2_bert.loss import orthogonal_projection_loss
from rag.encoders.m2_bert.model import M2Bert
from rag.encoders.m2_bert.saving import convert, save

__all__ = [
    "M2Bert",
    "M2BertConfig",
    "convert",
    "from_published",
    "load_published",
    "longer",
    "orthogonal_projection_loss",
    "save",
]
