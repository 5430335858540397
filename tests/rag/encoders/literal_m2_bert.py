"""M2-BERT as its formulas stand in the papers: loops over positions, no FFT, no batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model, under the names of ``config.json``; the defaults are small."""

    vocab_size: int = 40
    hidden_size: int = 24
    num_hidden_layers: int = 2
    intermediate_size: int = 32
    max_position_embeddings: int = 16
    hyena_emb_dim: int = 5
    hyena_filter_order: int = 8
    monarch_mlp_nblocks: int = 4


def filter_shapes(sizes: Sizes, name: str) -> Shapes:
    """The names and shapes of one long convolution, as they are published."""
    d, o, e = sizes.hidden_size, sizes.hyena_filter_order, sizes.hyena_emb_dim
    length = sizes.max_position_embeddings
    shapes: Shapes = {f"{name}.bias": (d,), f"{name}.modulation.deltas": (1, 1, d)}
    shapes |= {f"{name}.pos_emb.z": (1, length, e), f"{name}.pos_emb.t": (1, length, 1)}
    for side in ("implicit_filter", "implicit_filter_rev"):
        for number, inputs in ((0, e), (2, o), (4, o)):
            shapes[f"{name}.{side}.{number}.weight"] = (o, inputs)
            shapes[f"{name}.{side}.{number}.bias"] = (o,)
            shapes[f"{name}.{side}.{number + 1}.freq"] = (1, o)
        shapes[f"{name}.{side}.6.weight"] = (d, o)
    return shapes


def published_shapes(sizes: Sizes) -> Shapes:
    """The names and shapes of a published retrieval file, without its classifier."""
    d, inner, n = sizes.hidden_size, sizes.intermediate_size, sizes.monarch_mlp_nblocks
    length = sizes.max_position_embeddings
    shapes: Shapes = {
        "bert.embeddings.word_embeddings.weight": (sizes.vocab_size, d),
        "bert.embeddings.position_embeddings.weight": (length, d),
        "bert.embeddings.token_type_embeddings.weight": (2, d),
        "bert.embeddings.position_ids": (1, length),
        "bert.embeddings.LayerNorm.weight": (d,),
        "bert.embeddings.LayerNorm.bias": (d,),
        "bert.pooler.dense.weight": (d, d),
        "bert.pooler.dense.bias": (d,),
    }
    for i in range(sizes.num_hidden_layers):
        mixer, mlp = f"bert.encoder.layer.{i}.attention", f"bert.encoder.layer.{i}.mlp"
        shapes |= {
            f"{mixer}.in_linear.weight": (3 * d, d),
            f"{mixer}.in_linear.bias": (3 * d,),
            f"{mixer}.out_linear.weight": (d, d),
            f"{mixer}.out_linear.bias": (d,),
            f"{mixer}.short_filter.weight": (3 * d, 1, 3),
            f"{mixer}.short_filter.bias": (3 * d,),
            f"{mlp}.gated_layers.weight": (n, 2 * inner // n, d // n),
            f"{mlp}.wo.weight": (n, d // n, inner // n),
            f"{mlp}.wo.bias": (d,),
            f"{mlp}.layernorm.weight": (d,),
            f"{mlp}.layernorm.bias": (d,),
        }
        for name in ("filter_fn", "filter_fn2"):
            shapes |= filter_shapes(sizes, f"{mixer}.{name}")
    return shapes


def published_state(sizes: Sizes, seed: int = 0) -> State:
    """Random float32 weights under the published names; the six ``freq`` of a filter are one."""
    draw = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in published_shapes(sizes).items():
        if name.endswith("position_ids"):
            state[name] = torch.arange(shape[1])[None]
            continue
        value = torch.randn(shape, generator=draw) * 0.3
        if name.endswith(("LayerNorm.weight", "layernorm.weight")):
            value = value + 1
        if name.endswith("pos_emb.t"):
            value = torch.linspace(0, 1, shape[1])[None, :, None]
        if name.endswith("deltas"):
            value = -value.abs() * 5
        if name.endswith("freq"):
            first = name.split(".implicit_filter")[0] + ".implicit_filter.1.freq"
            value = state.get(first, value + 3)
        state[name] = value
    return state


def kernel(state: State, name: str, side: str, length: int) -> Any:
    """h[t], channel by channel the output of a small network times a decay; (length, d)."""
    rows = []
    for i in range(length):
        x = state[f"{name}.pos_emb.z"][0, i]
        for number in (0, 2, 4):
            w, b = (state[f"{name}.{side}.{number}.{kind}"] for kind in ("weight", "bias"))
            x = torch.sin(state[f"{name}.{side}.{number + 1}.freq"][0] * (w @ x + b))
        t = state[f"{name}.pos_emb.t"][0, i]
        decay = torch.exp(-t * state[f"{name}.modulation.deltas"][0, 0].abs())
        rows.append((state[f"{name}.{side}.6.weight"] @ x) * decay)
    return torch.stack(rows)


def long_convolution(state: State, name: str, u: Any) -> Any:
    """y[t] = sum_{s<=t} f[t-s] u[s] + sum_{s>t} r[s-t-1] u[s] + D u[t]; u is (length, d)."""
    length = len(u)
    back = kernel(state, name, "implicit_filter", length)
    ahead = kernel(state, name, "implicit_filter_rev", length)
    rows = []
    for t in range(length):
        y = state[f"{name}.bias"] * u[t]
        for s in range(length):
            y = y + (back[t - s] if s <= t else ahead[s - t - 1]) * u[s]
        rows.append(y)
    return torch.stack(rows)


def mixer(state: State, name: str, h: Any) -> Any:
    """W_out (longconv_1(v x1) x2 + longconv_2(h)) for one text; h is (length, d)."""
    d = h.shape[1]
    p = h @ state[f"{name}.in_linear.weight"].T + state[f"{name}.in_linear.bias"]
    w, b = state[f"{name}.short_filter.weight"][:, 0], state[f"{name}.short_filter.bias"]
    rows = []
    for t in range(len(h)):
        c = b
        for lag in (0, 1, 2):
            if t - lag >= 0:
                c = c + w[:, 2 - lag] * p[t - lag]
        rows.append(c)
    c = torch.stack(rows)
    x1, x2, v = c[:, :d], c[:, d : 2 * d], c[:, 2 * d :]
    y = long_convolution(state, f"{name}.filter_fn", v * x1) * x2
    y = y + long_convolution(state, f"{name}.filter_fn2", h)
    return y @ state[f"{name}.out_linear.weight"].T + state[f"{name}.out_linear.bias"]


def block_diagonal(weight: Any, x: Any) -> Any:
    """x (length, inputs) times the dense matrix that has the blocks on its diagonal."""
    return x @ torch.block_diag(*weight).T


def norm(state: State, name: str, x: Any) -> Any:
    """LayerNorm with eps 1e-12."""
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-12)
    return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]


def mlp(state: State, name: str, x: Any) -> Any:
    """LayerNorm(wo(gelu(first half) * second half) + x)."""
    up = block_diagonal(state[f"{name}.gated_layers.weight"], x)
    half = up.shape[1] // 2
    gate = up[:, :half]
    gate = 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2)))
    down = block_diagonal(state[f"{name}.wo.weight"], gate * up[:, half:])
    return norm(state, f"{name}.layernorm", down + state[f"{name}.wo.bias"] + x)


def encode(state: State, ids: Any, layers: int) -> tuple[Any, Any]:
    """The hidden states (length, d) and the pooled vector (d,) of one text, all of it tokens."""
    h = (
        state["bert.embeddings.word_embeddings.weight"][ids]
        + state["bert.embeddings.position_embeddings.weight"][: len(ids)]
        + state["bert.embeddings.token_type_embeddings.weight"][0]
    )
    h = norm(state, "bert.embeddings.LayerNorm", h)
    for i in range(layers):
        h = mixer(state, f"bert.encoder.layer.{i}.attention", h)
        h = mlp(state, f"bert.encoder.layer.{i}.mlp", h)
    w, b = state["bert.pooler.dense.weight"], state["bert.pooler.dense.bias"]
    return h, torch.tanh(w @ h[0] + b)
