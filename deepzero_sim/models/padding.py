"""Convolutions of correctors, and what they see outside the domain: the same along all axes, or another along each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

from deepzero_sim.common.requirements import require
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec import SolverSpec

#: Values outside the domain at the ends of an axis: zeros, the other side of a periodic domain, or the nearest value inside.
AxisPadding: TypeAlias = Literal["zeros", "circular", "replicate"]

#: Values outside the domain, for convolutions: those of all axes, or one for each.
Padding: TypeAlias = AxisPadding | Sequence[AxisPadding]

_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

#: Paddings that torch knows; the last one is of no use for a state, and is not in the documentation.
_KNOWN = ("zeros", "circular", "replicate", "reflect")


class _Surround(nn.Module):
    """Padding with another mode along each axis; zeros are left to the convolution.

    Args:
        modes: Padding of each axis.
        width: Number of points that are added at both ends.
    """

    def __init__(self, modes: Sequence[str], width: int) -> None:
        super().__init__()
        self.modes, self.width = tuple(modes), width

    def extra_repr(self) -> str:
        """Name the modes and the width."""
        return f"{', '.join(self.modes)}, width={self.width}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(B, C, *N)` to the same with more points along all axes but those of zeros."""
        for mode in dict.fromkeys(self.modes):
            if mode != "zeros":
                sides = [self.width * (one == mode) for one in reversed(self.modes) for _ in range(2)]
                x = F.pad(x, sides, mode)
        return x


def convolution(spec: SolverSpec, inputs: int, outputs: int, kernel: int, padding: Padding) -> nn.Module:
    """Make a convolution that keeps the shape of states.

    Args:
        spec: Spec of the solver whose states it sees.
        inputs: Channels in.
        outputs: Channels out.
        kernel: Points along each axis.
        padding: Values outside the domain, of all axes or of each.

    Raises:
        ConfigError: There is no such padding, or states have more than three axes.
    """
    dims = len(spec.state_shape) - 1
    if dims not in _CONVOLUTIONS:
        raise ConfigError(
            f"the built-in correctors handle 1 to 3 spatial axes, not {dims} as in {spec.name!r}: bring a network of your own."
        )
    make, modes, width = _CONVOLUTIONS[dims], _modes_of(padding, spec), kernel // 2
    if len(set(modes)) == 1:
        return make(inputs, outputs, kernel, padding=width, padding_mode=modes[0])
    zeros = tuple(width * (mode == "zeros") for mode in modes)
    return nn.Sequential(_Surround(modes, width), make(inputs, outputs, kernel, padding=zeros))  # type: ignore[arg-type]


def _modes_of(padding: Padding, spec: SolverSpec) -> tuple[AxisPadding, ...]:
    """Return the padding of each axis of a solver's states."""
    axes = spec.axis_names
    is_list = isinstance(padding, Sequence) and not isinstance(padding, str)
    modes: Sequence[Any] = padding if is_list else [padding] * len(axes)
    require(
        len(modes) == len(axes) and all(isinstance(mode, str) and mode in _KNOWN for mode in modes),
        f"padding must be zeros, circular or replicate, or a list with one of these for each axis ({', '.join(axes)})",
        padding,
    )
    return tuple(modes)
