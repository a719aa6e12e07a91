"""Corrector networks: they predict what a solver's step misses from the state it arrived at.

`C(s, p) = scale * network(s / scale, p / param_scale)`, zero where the state is padding. The scales are the standard
deviations of the training data; they are buffers, so checkpoints contain them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import nn

from deepzero_sim.errors import ConfigError
from deepzero_sim.models.layers import require_sizes
from deepzero_sim.solver.spec import SolverSpec

#: Values outside the domain, for convolutions: zeros, the other side of a periodic domain, or the nearest value inside.
Padding: TypeAlias = Literal["zeros", "circular", "replicate"]

_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Corrector(nn.Module):
    """Network with its normalisation, called as ``corrector(states, params)``: `(B, C, *N)` and `(B, K)` to `(B, C, *N)`.

    Args:
        spec: Specification of the solver to correct.
        network: Module from `(B, C + K, *N)` to `(B, C, *N)`; parameters come as constant channels.
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
        """Store the scales with the network.

        Args:
            state_scale: Standard deviation of every channel, `(C,)`.
            param_scale: Standard deviation of every parameter, `(K,)`.

        Raises:
            ConfigError: A scale is not positive, or there are too many or too few.
        """
        pairs = (("states", state_scale, self.state_scale), ("parameters", param_scale, self.param_scale))
        for name, scale, buffer in pairs:
            if scale.numel() != len(buffer):
                raise ConfigError(f"the corrector needs {len(buffer)} scales of the {name}, got {scale.numel()}: one for each.")
            if not bool((scale > 0).all()):
                raise ConfigError(
                    f"the scales of the {name} must be positive, got {scale.tolist()}: a channel or parameter that never "
                    "varies in the training data has none; give it scale 1."
                )
        for _, scale, buffer in pairs:
            buffer.copy_(scale.view_as(buffer))

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        count, expected = 0 if params is None else params.shape[1], len(self.param_scale)
        if count != expected:
            raise ConfigError(f"the corrector was built for {expected} parameters, got {count}: pass what the spec names.")
        inputs = states / self.state_scale
        if params is not None:
            constant = params.view(*params.shape, *[1] * (states.dim() - 2)) / self.param_scale
            inputs = torch.cat([inputs, constant.expand(-1, -1, *states.shape[2:])], dim=1)
        if states.dim() == 4:  # convolutions of few channels run a quarter faster in this layout
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        correction: torch.Tensor = self.network(inputs) * self.state_scale * self.active
        return correction


class NoCorrection(nn.Module):
    """Corrector that is always zero, for SRC: the solver alone."""

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return torch.zeros_like(states)


class _ResidualBlock(nn.Module):
    """Residual block, `act(x + conv(act(conv(x))))`."""

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


def _channels(spec: SolverSpec) -> tuple[int, int]:
    """Count the channels in (states and parameters) and out (states)."""
    return spec.state_shape[0] + len(spec.parameters), spec.state_shape[0]


def _zero(layer: nn.Module) -> nn.Module:
    """Set a layer's weights to zero, so that an untrained corrector leaves the solver as it is."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _residual(spec: SolverSpec, width: int, blocks: int, kernel: int, padding: Padding) -> Corrector:
    inputs, outputs = _channels(spec)

    def conv(i: int, o: int) -> nn.Module:
        return _convolution(spec, i, o, kernel, padding)

    layers = [conv(inputs, width), nn.LeakyReLU(0.3)]
    layers += [_ResidualBlock(conv(width, width), conv(width, width), 0.3) for _ in range(blocks)]
    return Corrector(spec, nn.Sequential(*layers, _zero(conv(width, outputs))))


def small(spec: SolverSpec, width: int = 4, blocks: int = 1, kernel: int = 3, padding: Padding = "zeros") -> Corrector:
    """Make a residual network small enough for CGE on a CPU: 482 parameters on the wake."""
    require_sizes(width=width, kernel=kernel)
    require_sizes(0, blocks=blocks)
    return _residual(spec, width, blocks, kernel, padding)


def mars_moon(spec: SolverSpec, padding: Padding = "zeros") -> Corrector:
    """Make Um et al.'s network: five residual blocks of 32 channels, 5 x 5 kernels; 260,354 parameters on the wake."""
    return _residual(spec, width=32, blocks=5, kernel=5, padding=padding)


def mercury(spec: SolverSpec, padding: Padding = "zeros") -> Corrector:
    """Make Um et al.'s smaller network: three 5 x 5 convolutions, 32 and 64 channels between; 56,898 parameters on the wake."""
    inputs, outputs = _channels(spec)
    layers = [
        _convolution(spec, inputs, 32, 5, padding),
        nn.LeakyReLU(0.3),
        _convolution(spec, 32, 64, 5, padding),
        nn.LeakyReLU(0.3),
        _zero(_convolution(spec, 64, outputs, 5, padding)),
    ]
    return Corrector(spec, nn.Sequential(*layers))


#: Correctors that settings call by a short name.
CORRECTORS: dict[str, Callable[..., Corrector]] = {"small": small, "mercury": mercury, "mars_moon": mars_moon}
