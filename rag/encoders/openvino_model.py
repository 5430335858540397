"""The forward pass of a model of transformers by OpenVINO, on a CPU, in float32.

The model is traced and converted in memory each time it is opened (a second or two): nothing is
written to disk, and OpenVINO's converter tool, which reports its use, is not called.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rag.errors import InvalidInput

LEAST_COSINE = 0.9999
"""Between what OpenVINO and torch give each token of a few texts; less is refused."""
SAMPLES = (
    "a",
    "The quick brown foxes weren't jumping over 12,345 lazy dogs.",
    "Iron, steel and glass: what was built of them in the nineteenth century stands to this day.",
)


def convert(name: str, model: Any, tokenizer: Any) -> None:
    """Have OpenVINO compute the forward pass of a model of transformers, in place.

    Args:
        name: what errors call it.
        model: gives ``last_hidden_state``, or ``logits``; on a CPU.
        tokenizer: its own, for the texts by which the two are compared.

    Raises:
        InvalidInput: OpenVINO cannot convert it, or gives other values than torch.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    tokens = dict(tokenizer(list(SAMPLES), padding=True, return_tensors="pt"))
    with torch.inference_mode():
        expected = model(**tokens)
    field = "logits" if "logits" in expected else "last_hidden_state"
    wanted = expected[field]
    example = (tokens["input_ids"], tokens["attention_mask"])
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: the values are compared below
            decoder = TorchScriptPythonDecoder(_Plain(model, field), example_input=example)
            frontend = FrontEndManager().load_by_framework("pytorch")
            made = frontend.convert(frontend.load(decoder))
        made.reshape({number: openvino.PartialShape([-1, -1]) for number in range(2)})
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        request = openvino.Core().compile_model(made, "CPU", settings).create_infer_request()
    except Exception as error:  # tracing, converting and compiling raise whatever they like
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInput(
            f"OpenVINO cannot convert the encoder {name}: {said}; use device cpu"
        ) from error
    form = type(expected)

    def forward(input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        found = request.infer([input_ids.numpy(), attention_mask.numpy()])
        return form(**{field: torch.from_numpy(np.array(found[0]))})

    real = tokens["attention_mask"].bool()
    found = forward(*example)[field]
    cosine = float(nn.functional.cosine_similarity(found[real], wanted[real], dim=-1).min())
    if not cosine >= LEAST_COSINE:  # nor is NaN
        raise InvalidInput(
            f"OpenVINO gives the encoder {name} other values than torch: a cosine of {cosine:.6f}, "
            f"expected at least {LEAST_COSINE}; use device cpu"
        )
    model.forward = forward


class _Plain(nn.Module):  # type: ignore[misc]
    """Two tensors in, one out: what can be traced."""

    def __init__(self, model: Any, field: str) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[self.field]
        return found
