"""Corrector networks: what a solver's step misses, as a function of where it arrived.

`C(s, p) = scale * network(s / scale, p / param_scale)`, zero where the state is padding. The scales are the training
data's standard deviations; they are buffers, so a checkpoint keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import nn

from deepzero_sim.errors import ConfigError
from deepzero_sim.models.sizes import require_whole
from deepzero_sim.solver.contract import SolverSpec

#: What convolutions see outside the domain: zeros, or the other side of a periodic one.
Padding: TypeAlias = Literal["zeros", "circular", "replicate"]

_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Corrector(nn.Module):
    """A network with its normalisation, called as ``corrector(states, params)``, `(B, C, *N)` and `(B, K)` to `(B, C, *N)`.

    Args:
        spec: of the solver that is corrected.
        network: `(B, C + K, *N)` to `(B, C, *N)`; parameters come as constant channels.
    """

    state_scale: torch.Tensor
    param_scale: torch.Tensor
    active: torch.Tensor

    def __init__(self, spec: SolverSpec, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        dims = len(spec.state_shape) - 1
        self.register_buffer("state_scale", torch.ones(spec.state_shape[0], *[1] * dims))
        self.register_buffer("param_scale", torch.ones(len(spec.parameters), *[1] * dims))
        self.register_buffer("active", torch.tensor(spec.active(), dtype=torch.float32), persistent=False)

    def set_scales(self, state_scale: torch.Tensor, param_scale: torch.Tensor) -> None:
        """Keep the standard deviation of every channel, `(C,)`, and every parameter, `(K,)`, with the network.

        Raises:
            ConfigError: one of them is not positive, or they are too many or too few.
        """
        pairs = (("states", state_scale, self.state_scale), ("parameters", param_scale, self.param_scale))
        for name, scale, kept in pairs:
            if scale.numel() != len(kept):
                raise ConfigError(f"the corrector needs {len(kept)} scales of the {name}, got {scale.numel()}: one for each.")
            if not bool((scale > 0).all()):
                raise ConfigError(
                    f"the scales of the {name} must be positive, got {scale.tolist()}: a channel or parameter that never "
                    "varies in the training data has none; give it scale 1."
                )
        for _, scale, kept in pairs:
            kept.copy_(scale.view_as(kept))

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        given, expected = 0 if params is None else params.shape[1], len(self.param_scale)
        if given != expected:
            raise ConfigError(f"the corrector was built for {expected} parameters, got {given}: pass what the spec names.")
        inputs = states / self.state_scale
        if params is not None:
            constant = params.view(*params.shape, *[1] * (states.dim() - 2)) / self.param_scale
            inputs = torch.cat([inputs, constant.expand(-1, -1, *states.shape[2:])], dim=1)
        if states.dim() == 4:  # convolutions of few channels run a quarter faster in this layout
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        correction: torch.Tensor = self.network(inputs) * self.state_scale * self.active
        return correction


class NoCorrection(nn.Module):
    """The corrector of SRC, the solver alone: always zero."""

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return torch.zeros_like(states)


class _ResidualBlock(nn.Module):
    """`x + conv(act(conv(x)))`, activated."""

    def __init__(self, first: nn.Module, second: nn.Module, slope: float) -> None:
        super().__init__()
        self.first, self.second, self.activation = first, second, nn.LeakyReLU(slope)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.activation(x + self.second(self.activation(self.first(x))))
        return result


def _convolution(spec: SolverSpec, inputs: int, outputs: int, kernel: int, padding: Padding) -> nn.Module:
    dims = len(spec.state_shape) - 1
    if dims not in _CONVOLUTIONS:
        raise ConfigError(
            f"the built-in correctors handle 1 to 3 spatial axes, not {dims} as in {spec.name!r}: bring a network of your own."
        )
    return _CONVOLUTIONS[dims](inputs, outputs, kernel, padding=kernel // 2, padding_mode=padding)


def _ends(spec: SolverSpec) -> tuple[int, int]:
    """Channels in (states and parameters) and out (states)."""
    return spec.state_shape[0] + len(spec.parameters), spec.state_shape[0]


def _without_effect(layer: nn.Module) -> nn.Module:
    """Start from zero, so that an untrained corrector leaves the solver as it is."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _residual(spec: SolverSpec, width: int, blocks: int, kernel: int, padding: Padding) -> Corrector:
    inputs, outputs = _ends(spec)

    def conv(i: int, o: int) -> nn.Module:
        return _convolution(spec, i, o, kernel, padding)

    layers = [conv(inputs, width), nn.LeakyReLU(0.3)]
    layers += [_ResidualBlock(conv(width, width), conv(width, width), 0.3) for _ in range(blocks)]
    return Corrector(spec, nn.Sequential(*layers, _without_effect(conv(width, outputs))))


def small(spec: SolverSpec, width: int = 4, blocks: int = 1, kernel: int = 3, padding: Padding = "zeros") -> Corrector:
    """A residual network small enough for CGE on a CPU: 482 parameters on the wake."""
    require_whole(width=width, kernel=kernel)
    require_whole(0, blocks=blocks)
    return _residual(spec, width, blocks, kernel, padding)


def mars_moon(spec: SolverSpec, padding: Padding = "zeros") -> Corrector:
    """Um et al.'s network: five residual blocks of 32 channels, 5 x 5 kernels; 260,354 parameters on the wake."""
    return _residual(spec, width=32, blocks=5, kernel=5, padding=padding)


def mercury(spec: SolverSpec, padding: Padding = "zeros") -> Corrector:
    """Um et al.'s smaller network: three convolutions of 5 x 5, 32 and 64 channels between; 56,898 parameters on the wake."""
    inputs, outputs = _ends(spec)
    layers = [
        _convolution(spec, inputs, 32, 5, padding),
        nn.LeakyReLU(0.3),
        _convolution(spec, 32, 64, 5, padding),
        nn.LeakyReLU(0.3),
        _without_effect(_convolution(spec, 64, outputs, 5, padding)),
    ]
    return Corrector(spec, nn.Sequential(*layers))


#: The networks that have a short name.
CORRECTORS: dict[str, Callable[..., Corrector]] = {"small": small, "mercury": mercury, "mars_moon": mars_moon}
