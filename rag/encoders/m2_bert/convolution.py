"""The long convolution of M2-BERT: kernels that small networks write, applied by FFT.

One kernel looks back and one looks ahead. With kernels f and r and a weight D for each channel,

    y[t] = sum_{s <= t} f[t-s] u[s]  +  sum_{s > t} r[s-t-1] u[s]  +  D u[t]

(Fu et al., *Monarch Mixer*, NeurIPS 2023; Saad-Falcon et al., arXiv 2402.07440). Zeros to the right
of a text add nothing, so a text of any length gets what it would get at the full length.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

STEPS = (4, 5, 6, 7)
"""FFT sizes are these times a power of two: few sizes, so that a kept kernel is often of use."""

SLOWEST, FASTEST = math.log(1e-2) / 1.5, math.log(1e-2) / 0.3
"""Decay of the kernels: the slowest channel falls to 1% at 1.5 lengths, the fastest at 0.3."""


def fft_size(length: int) -> int:
    """The smallest size that the convolution of ``length`` positions may use, at least twice it."""
    power = 1
    while 7 * power < 2 * length:
        power *= 2
    return next(step * power for step in STEPS if step * power >= 2 * length)


def times(length: int) -> Tensor:
    """Make t of the kernels, (1, length, 1) float32: 0 at the first lag, 1 at the last."""
    return torch.linspace(0, 1, length)[None, :, None]


def features(length: int, count: int) -> Tensor:
    """Make z as training begins, (1, length, count) float32: t, cosines and negated sines."""
    bands = (count - 1) // 2
    # linspace throughout: transformers makes it on the CPU, and arange not, while it loads a model
    angle = 2 * math.pi * torch.linspace(0, length - 1, length)[:, None] / length  # (length, 1)
    angle = angle * torch.linspace(1e-4, bands - 1, bands)  # (length, bands)
    return torch.cat([times(length)[0], torch.cos(angle), -torch.sin(angle)], dim=1)[None]


class Position(nn.Module):  # type: ignore[misc]
    """What the kernel networks read: z, which is trained, and t, which is not."""

    def __init__(self, length: int, count: int) -> None:
        super().__init__()
        self.z = nn.Parameter(features(length, count))  # (1, length, count)
        self.register_buffer("t", times(length))


class Decay(nn.Module):  # type: ignore[misc]
    """exp(-t |delta|), another delta for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("deltas", torch.linspace(SLOWEST, FASTEST, width)[None, None])


class Whole(nn.Linear):  # type: ignore[misc]
    """A linear layer that computes in the type of its input, however its weights are kept."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.to(x.dtype), bias)


def network(inputs: int, hidden: int, width: int) -> nn.ModuleDict:
    """The linear layers of a kernel's network, under the numbers that published files give them."""
    sizes = {"0": (inputs, hidden), "2": (hidden, hidden), "4": (hidden, hidden)}
    layers = {name: Whole(*size) for name, size in sizes.items()}
    return nn.ModuleDict(layers | {"6": Whole(hidden, width, bias=False)})


def by_spectrum(u: Tensor, spectrum: Tensor, size: int) -> Tensor:
    """The circular product of u, (batch, width, length), and a kernel, by its transform."""
    y = torch.fft.irfft(torch.fft.rfft(u, n=size).mul_(spectrum), n=size)
    return y[..., : u.shape[-1]]


class Circular(torch.autograd.Function):  # type: ignore[misc]
    """`by_spectrum` of a real kernel; torch itself would compute its gradients by complex FFTs.

    The transform of the gradient of u is that of y times conj(kernel^); of the kernel it is
    the sum over the batch of that of y times conj(u^).
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, kernel: Tensor) -> Tensor:
        """(batch, width, length) and (width, size) to (batch, width, length)."""
        size = kernel.shape[-1]
        one, other = torch.fft.rfft(u, n=size), torch.fft.rfft(kernel)
        ctx.save_for_backward(one, other)
        y: Tensor = torch.fft.irfft(one * other, n=size)[..., : u.shape[-1]]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of u and of the kernel."""
        one, other = ctx.saved_tensors
        length = grad.shape[-1]
        size = 2 * (other.shape[-1] - 1)
        back = torch.fft.rfft(grad, n=size)
        of_u = of_kernel = None
        if ctx.needs_input_grad[1]:
            of_kernel = torch.fft.irfft((back * one.conj()).sum(0), n=size)
        if ctx.needs_input_grad[0]:
            of_u = torch.fft.irfft(back.mul_(other.conj()), n=size)[..., :length]
        return of_u, of_kernel


class Causal(torch.autograd.Function):  # type: ignore[misc]
    """Each channel with the two positions before it: y[t] = b + w2 x[t] + w1 x[t-1] + w0 x[t-2].

    The same as torch's depthwise ``conv1d``, at a third of its time on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(batch, width, length), (width, 1, 3) and (width,) to (batch, width, length)."""
        ctx.save_for_backward(x, weight)
        return causal(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        w = weight[:, 0]
        of_x = grad * w[:, 2:]
        of_x[..., :-1].addcmul_(grad[..., 1:], w[:, 1:2])
        of_x[..., :-2].addcmul_(grad[..., 2:], w[:, :1])
        lags = [(grad[..., lag:] * x[..., : x.shape[-1] - lag]).sum((0, 2)) for lag in (2, 1, 0)]
        return of_x, torch.stack(lags, 1)[:, None], grad.sum((0, 2))


def causal(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `Causal` computes."""
    w = weight[:, 0]
    y = torch.addcmul(bias[:, None], x, w[:, 2:])
    y[..., 1:].addcmul_(x[..., :-1], w[:, 1:2])
    y[..., 2:].addcmul_(x[..., :-2], w[:, :1])
    return y


class LongConvolution(nn.Module):  # type: ignore[misc]
    """Convolve (batch, width, length) with a kernel as long as the longest text.

    The kernel is made in float32 or more, and so is the convolution, whatever the type of the
    input; the result has the type of the input.
    """

    def __init__(
        self, width: int, length: int, *, inputs: int, hidden: int, w: float, w_mod: float
    ) -> None:
        super().__init__()
        self.w, self.w_mod, self.keep = w, w_mod, True
        self.bias = nn.Parameter(torch.randn(width))  # D
        self.freq = nn.Parameter(torch.full((1, hidden), float(w)))
        self.pos_emb = Position(length, inputs)
        self.modulation = Decay(width)
        self.implicit_filter = network(inputs, hidden, width)
        self.implicit_filter_rev = network(inputs, hidden, width)
        self._kept: tuple[Any, Tensor] | None = None

    def kernel(self, layers: nn.ModuleDict, length: int) -> Tensor:
        """The first ``length`` values of a kernel, (length, width)."""
        z, t = self.pos_emb.z[0, :length], self.pos_emb.t[0, :length]
        form = torch.promote_types(z.dtype, torch.float32)
        x = z.to(form)
        freq = self.w_mod * self.freq.to(form)
        for name in ("0", "2", "4"):
            x = torch.sin(freq * layers[name](x))
        made: Tensor = layers["6"](x)
        return made * torch.exp(-t.to(form) * self.modulation.deltas[0].to(form).abs())

    def whole(self, size: int) -> Tensor:
        """f, r and D as one circular kernel, (width, size)."""
        length = min(size // 2, self.pos_emb.z.shape[1])
        back = self.kernel(self.implicit_filter, length)
        ahead = self.kernel(self.implicit_filter_rev, length).flip(0)
        gap = back.new_zeros(size - 2 * length, back.shape[1])
        here = back[:1] + self.bias.to(back.dtype)  # D is a weight of lag 0
        return torch.cat([here, back[1:], gap, ahead]).T.contiguous()

    def spectrum(self, size: int) -> Tensor:
        """The Fourier transform of f, r and D together, (width, size // 2 + 1) complex."""
        return torch.fft.rfft(self.whole(size))

    def kept(self, size: int) -> Tensor:
        """The same, kept for the next call where nothing is trained."""
        if not self.keep or self.training or torch.is_grad_enabled():
            self._kept = None
            return self.spectrum(size)
        tensors = [*self.parameters(), *self.buffers()]
        # an inference tensor counts no changes, and cannot be changed outside inference mode
        state = [(x.data_ptr(), -1 if x.is_inference() else x._version) for x in tensors]
        key = (size, tensors[0].device, state)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # before the new one is made: both at once may not fit
            self._kept = key, self.spectrum(size)
        return self._kept[1]

    def forward(self, u: Tensor) -> Tensor:
        """Convolve u, (batch, width, length), real; the result has its shape and type."""
        length = u.shape[-1]
        size = fft_size(length)
        form = torch.promote_types(u.dtype, torch.float32)
        with torch.autocast(u.device.type, enabled=False):
            if torch.is_grad_enabled():
                self._kept = None
                y = Circular.apply(u.to(form), self.whole(size).to(form))
            else:
                y = by_spectrum(u.to(form), self.kept(size), size)
        return y.to(u.dtype)
