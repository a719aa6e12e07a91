"""Networks that the difference rules were not written for: `name: (network, shapes of its inputs)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn
from torch.nn.utils import parametrizations


class Applied(nn.Module):
    """Modules by name, and what to do with them and the inputs."""

    def __init__(self, function: Callable[..., torch.Tensor], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self, *inputs)


class Tied(nn.Module):
    """One parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(torch.tanh(self.first(x)))
        return result


class Attention(nn.Module):
    """A transformer block, written out."""

    def __init__(self, width: int = 4, heads: int = 2, fused: bool = False) -> None:
        super().__init__()
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out, self.norm2 = nn.Linear(width, width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 6), nn.GELU(), nn.Linear(6, width))
        self.heads, self.fused = heads, fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.project(self.norm(x)).chunk(3, dim=-1))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = ((q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        result: torch.Tensor = x + self.mlp(self.norm2(x))
        return result


class Residual(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norms, self.last, self.inplace = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)]), nn.Conv2d(3, 2, 1), inplace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.norms[0](self.first(x)), inplace=self.inplace)
        y = self.norms[1](self.second(hidden))
        if self.inplace:
            y += hidden
        else:
            y = y + hidden
        result: torch.Tensor = self.last(F.relu(y, inplace=self.inplace))
        return result


def _lstm(self: Any, x: torch.Tensor) -> torch.Tensor:
    outputs, (hidden, cell) = self.lstm(x)
    result: torch.Tensor = self.out(outputs) + hidden[-1].sum() * cell[-1].mean()
    return result


def _attend(self: Any, x: torch.Tensor) -> torch.Tensor:
    mixed, weights = self.attention(x, x, x)
    result: torch.Tensor = mixed * weights.square().sum()
    return result


def _split(self: Any, x: torch.Tensor) -> torch.Tensor:
    first, second, third = self.conv(x).split([1, 2, 1], dim=1)
    return torch.cat([first * third, second.flip(-1), torch.roll(third, 1, -1), first.expand_as(second)], dim=1).permute(
        0, 2, 1
    )


def seq(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def _quotient(self: Any, x: torch.Tensor) -> torch.Tensor:
    a, b = self.a(x), self.b(x)
    return (1 - a) / (2 + b.square()) - 3 / (1 + b**2) + (a - b) * 0.5 - a.mul(b).neg()


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "depthwise": (lambda: seq(nn.Conv2d(3, 6, 3, groups=3), nn.SiLU(), nn.Conv2d(6, 2, 1)), ((2, 3, 5, 5),)),
    "grouped, strided": (lambda: seq(nn.Conv2d(4, 6, 3, 2, groups=2), nn.Tanh(), nn.Conv2d(6, 2, 2)), ((2, 4, 7, 6),)),
    "dilated": (lambda: seq(nn.Conv2d(2, 2, 3, padding=2, dilation=2), nn.Tanh(), nn.Conv2d(2, 2, 2)), ((2, 2, 5, 4),)),
    "circular": (
        lambda: seq(nn.Conv2d(2, 2, 3, padding=(1, 2), padding_mode="circular"), nn.Tanh(), nn.Conv2d(2, 1, 1)),
        ((2, 2, 4, 5),),
    ),
    "reflected": (lambda: seq(nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Tanh()), ((2, 2, 6),)),
    "without batch axis": (lambda: seq(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 2)), ((2, 5, 5),)),
    "transposed": (
        lambda: seq(nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3)),
        ((2, 2, 3, 3),),
    ),
    "transposed, grouped": (
        lambda: seq(nn.Conv1d(2, 4, 1), nn.Tanh(), nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2), nn.Conv1d(6, 1, 2)),
        ((2, 2, 4),),
    ),
    "transposed, dilated": (lambda: seq(nn.ConvTranspose2d(2, 2, 2, dilation=2), nn.Tanh()), ((2, 2, 3, 3),)),
    "3d": (lambda: seq(nn.Conv3d(1, 2, 2, groups=1), nn.ELU(), nn.ConvTranspose3d(2, 1, 2)), ((2, 1, 3, 3, 3),)),
    "layer used twice": (
        lambda: Applied(lambda self, x: self.conv(torch.tanh(self.conv(x))), conv=nn.Conv2d(2, 2, 3, padding=1)),
        ((2, 2, 4, 4),),
    ),
    "tied": (Tied, ((3, 4),)),
    "tied embedding": (
        lambda: Applied(lambda self, x: torch.tanh(self.e(x)) @ self.e.weight.T, e=nn.Embedding(5, 3)),
        ((2, 4),),
    ),
    "branches added": (
        lambda: Applied(
            lambda self, x: self.c(self.a(x) + torch.sigmoid(self.b(x))), a=nn.Linear(3, 4), b=nn.Linear(3, 4),
            c=nn.Linear(4, 2),
        ),
        ((4, 3),),
    ),
    "branches added, broadcast": (
        lambda: Applied(lambda self, x: torch.tanh(self.a(x) + self.b(x)), a=nn.Linear(3, 4), b=nn.Linear(3, 1)),
        ((4, 3),),
    ),
    "branches multiplied": (
        lambda: Applied(lambda self, x: self.a(x) * self.b(x) * x.mean(), a=nn.Linear(3, 4), b=nn.Linear(3, 1)),
        ((4, 3),),
    ),
    "branches joined": (
        lambda: Applied(
            lambda self, x: self.c(torch.cat([self.a(x), torch.relu(self.b(x)), x], dim=1)),
            a=nn.Conv1d(2, 2, 3, padding=1), b=nn.Conv1d(2, 1, 1), c=nn.Conv1d(5, 1, 2),
        ),
        ((2, 2, 5),),
    ),
    "stacked": (
        lambda: Applied(lambda self, x: torch.stack([self.a(x), x], dim=1).mean(1), a=nn.Linear(3, 3)), ((4, 3),)
    ),
    "split": (lambda: Applied(_split, conv=nn.Conv1d(2, 4, 1)), ((2, 2, 4),)),
    "arithmetic": (lambda: Applied(_quotient, a=nn.Linear(3, 2), b=nn.Linear(3, 2)), ((4, 3),)),
    "two inputs": (
        lambda: Applied(lambda self, x, y: self.a(x) * torch.tanh(self.b(y)), a=nn.Linear(3, 2), b=nn.Linear(4, 2)),
        ((5, 3), (5, 4)),
    ),
    "bilinear": (lambda: Applied(lambda self, x, y: self.a(x, y), a=nn.Bilinear(3, 2, 2)), ((5, 3), (5, 2))),
    "matrix products": (
        lambda: Applied(lambda self, x: self.a(x) @ self.b(x).mT @ x, a=nn.Linear(3, 4), b=nn.Linear(3, 4)), ((2, 4, 3),)
    ),
    "einsum": (
        lambda: Applied(lambda self, x: torch.einsum("bti,bsi->bts", self.a(x), torch.tanh(self.b(x))),
                        a=nn.Linear(3, 2), b=nn.Linear(3, 2)),
        ((2, 3, 3),),
    ),
    "transformer layer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), ((2, 3, 4),)
    ),
    "transformer layer, evaluated": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu", norm_first=True).eval(),
        ((2, 3, 4),),
    ),
    "transformer block": (Attention, ((2, 3, 4),)),
    "transformer block, fused": (lambda: Attention(fused=True), ((2, 3, 4),)),
    "attention": (
        lambda: Applied(_attend, attention=nn.MultiheadAttention(4, 2, batch_first=True)), ((2, 3, 4),)
    ),
    "lstm": (lambda: Applied(_lstm, lstm=nn.LSTM(2, 3, batch_first=True), out=nn.Linear(3, 1)), ((2, 4, 2),)),
    "gru": (lambda: Applied(lambda self, x: self.gru(x)[0], gru=nn.GRU(2, 2)), ((3, 2, 2),)),
    "recurrent cell": (lambda: Applied(lambda self, x: self.cell(x, self.cell(x)), cell=nn.RNNCell(2, 2)), ((3, 2),)),
    "embedding": (
        lambda: Applied(lambda self, x: self.out(torch.tanh(self.e(x))), e=nn.Embedding(5, 3), out=nn.Linear(3, 2)),
        ((3, 4),),
    ),
    "group norm": (lambda: seq(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 1, 2)), ((2, 2, 5, 5),)),
    "layer norm of images": (lambda: seq(nn.Conv2d(1, 2, 2), nn.LayerNorm([2, 3, 3]), nn.Tanh()), ((2, 1, 4, 4),)),
    "layer norm without bias": (lambda: seq(nn.Linear(3, 3), nn.LayerNorm(3, bias=False), nn.Linear(3, 2)), ((4, 3),)),
    "rms norm": (lambda: seq(nn.Linear(3, 4), nn.RMSNorm(4), nn.Linear(4, 2)), ((4, 3),)),
    "batch norm of features": (lambda: seq(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), ((6, 3),)),
    "batch norm 1d": (lambda: seq(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Conv1d(3, 2, 1)), ((4, 2, 6),)),
    "batch norm 2d": (lambda: seq(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1)), ((4, 2, 5, 5),)),
    "batch norm 2d, fixed": (
        lambda: seq(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1)).eval(), ((4, 2, 5, 5),)
    ),
    "batch norm without parameters": (
        lambda: seq(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False, track_running_stats=False), nn.Conv2d(3, 2, 1)),
        ((4, 2, 5, 5),),
    ),
    "batch norm first": (lambda: seq(nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3)), ((4, 2, 4, 4),)),
    "instance norm": (
        lambda: seq(nn.Conv1d(1, 2, 3), nn.InstanceNorm1d(2, affine=True), nn.Tanh(), nn.Conv1d(2, 1, 1)), ((3, 1, 7),)
    ),
    "instance norm, fixed": (
        lambda: seq(nn.Conv1d(1, 2, 3), nn.InstanceNorm1d(2, track_running_stats=True), nn.Tanh()).eval(), ((3, 1, 7),)
    ),
    "max pooling": (lambda: seq(nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.Conv2d(2, 1, 2)), ((2, 1, 7, 7),)),
    "max pooling, overlapping": (
        lambda: seq(nn.Conv2d(1, 2, 2), nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(2, 1, 2)), ((2, 1, 7, 6),)
    ),
    "max pooling, otherwise": (
        lambda: seq(nn.Conv2d(1, 2, 2), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, 1, dilation=2)), ((2, 1, 8, 8),)
    ),
    "max pooling 1d": (lambda: seq(nn.Conv1d(1, 2, 2), nn.MaxPool1d(2), nn.AdaptiveMaxPool1d(2)), ((2, 1, 9),)),
    "average pooling": (
        lambda: seq(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Conv2d(2, 1, 2)),
        ((2, 1, 7, 7),),
    ),
    "adaptive pooling": (
        lambda: seq(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), ((2, 1, 5, 5),)
    ),
    "average pooling 1d": (lambda: seq(nn.Conv1d(1, 2, 2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(2)), ((2, 1, 9),)),
    "pixel shuffle": (lambda: seq(nn.Conv2d(1, 4, 2), nn.PixelShuffle(2), nn.Tanh()), ((2, 1, 3, 3),)),
    "upsampling": (
        lambda: seq(nn.Conv2d(1, 2, 2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2, 1, 2)), ((2, 1, 4, 4),)
    ),
    "padding": (lambda: seq(nn.Conv1d(1, 2, 2), nn.ConstantPad1d((1, 2), 0.7), nn.Tanh(), nn.Conv1d(2, 1, 2)), ((2, 1, 5),)),
    "residual": (lambda: Residual(inplace=False), ((3, 2, 4, 4),)),
    "residual in place": (lambda: Residual(inplace=True), ((3, 2, 4, 4),)),
    "weight norm": (lambda: seq(parametrizations.weight_norm(nn.Conv1d(2, 3, 2)), nn.Tanh(), nn.Linear(4, 2)), ((2, 2, 5),)),
    "slices": (
        lambda: Applied(lambda self, x: self.a(x)[:, ::2] * self.a(x)[..., [0, 2]] + self.a(x)[:, None, 1], a=nn.Linear(3, 4)),
        ((3, 3),),
    ),
    "reductions": (
        lambda: Applied(
            lambda self, x: self.a(x).sum(1) + self.a(x).mean() + self.a(x).std() + self.a(x).amax(1) + self.a(x).norm()
            + torch.logsumexp(self.a(x), 1) + self.a(x).cumsum(0)[-1].sum(),
            a=nn.Linear(3, 4),
        ),
        ((3, 3),),
    ),
    "clamped": (lambda: Applied(lambda self, x: self.a(x).clamp(-0.5, 0.4) + self.a(x).abs(), a=nn.Linear(3, 4)), ((3, 3),)),
    "detached": (lambda: Applied(lambda self, x: self.a(x) * 2 + x.detach().sum(), a=nn.Linear(3, 4)), ((3, 3),)),
}  # fmt: skip

#: Every activation that has a rule, and some that have none.
ACTIVATIONS: tuple[nn.Module, ...] = (
    nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.LeakyReLU(0.1, inplace=True), nn.ELU(), nn.ELU(0.7, inplace=True),
    nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.SiLU(inplace=True), nn.GELU(), nn.GELU("tanh"), nn.Softplus(), nn.Softplus(2.0, 1.0),
    nn.Mish(), nn.Mish(inplace=True), nn.Softmax(-1), nn.LogSoftmax(1), nn.Softmin(-1),
    nn.PReLU(), nn.PReLU(3), nn.Hardtanh(), nn.ReLU6(inplace=True), nn.Hardswish(), nn.SELU(), nn.CELU(0.5), nn.LogSigmoid(),
    nn.Softsign(), nn.Tanhshrink(), nn.GLU(-1), nn.Threshold(0.1, 0.3), nn.Hardsigmoid(),
    nn.Softshrink(0.1), nn.Hardshrink(0.1),
)  # fmt: skip
