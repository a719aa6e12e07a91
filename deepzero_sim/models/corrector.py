"""Corrector networks: they predict what a solver's step misses from the state it arrived at.

`C(s, p) = scale * network((s - mean) / scale, (p - param_mean) / param_scale)`, zero where the state is padding. The scales
are the standard deviations of the training data. The means are zero but where zero means nothing: of a temperature of 300 K
that varies by 5. Both are buffers, so checkpoints contain them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.types import to_array
from deepzero_sim.errors import ConfigError, ScaleWarning
from deepzero_sim.models.layers import require_sizes
from deepzero_sim.models.padding import Padding, convolution
from deepzero_sim.solver.spec import SolverSpec

#: Number of standard deviations from zero beyond which a mean is taken away: nearer to it, zero is often a value of its own,
#: such as that of a field at rest, and what convolutions see outside the domain.
FAR = 4.0

#: Standard deviations of inputs that a network copes with.
UNIT_SIZE = 0.05, 20.0


class Scaled(Protocol):
    """Data that know their scales, such as :class:`deepzero_sim.datasets.Trajectories`."""

    def scales(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Compute standard deviations of channels, `(C,)`, and of parameters, `(K,)`."""

    def means(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Compute means of channels, `(C,)`, and of parameters, `(K,)`."""


class Corrector(nn.Module):
    """Network with its normalisation, called as ``corrector(states, params)``: `(B, C, *N)` and `(B, K)` to `(B, C, *N)`.

    Args:
        spec: Specification of the solver to correct.
        network: Module from `(B, C + K, *N)` to `(B, C, *N)`; parameters come as constant channels.
        data: Trajectories that scale it, see :meth:`set_scales`; all scales are 1 if None.
        of_inputs: True for a network inside a step, which provides the solver's inputs, `(B, U, *N)`, in units of their scales.
    """

    state_scale: torch.Tensor
    param_scale: torch.Tensor
    state_mean: torch.Tensor | None
    param_mean: torch.Tensor | None
    active: torch.Tensor

    def __init__(self, spec: SolverSpec, network: nn.Module, data: Scaled | None = None, of_inputs: bool = False) -> None:
        super().__init__()
        self.network = network
        self._of_inputs = of_inputs
        dims = len(spec.state_shape) - 1
        self.register_buffer("state_scale", torch.ones(spec.state_shape[0], *[1] * dims))
        self.register_buffer("param_scale", torch.ones(len(spec.parameters), *[1] * dims))
        self.register_buffer("state_mean", None)  # of most data, and of checkpoints from before there were any
        self.register_buffer("param_mean", None)
        active = spec.active_inputs() if of_inputs else spec.active()
        self.register_buffer("active", torch.tensor(active, dtype=torch.float32), persistent=False)
        self._names = (spec.channels or tuple(f"channel {i}" for i in range(spec.state_shape[0]))), spec.parameters
        self._looked_at_inputs = False
        if data is not None:
            self.set_scales(data)

    def set_scales(
        self,
        state_scale: Scaled | ArrayLike | torch.Tensor,
        param_scale: ArrayLike | torch.Tensor | None = None,
        state_mean: ArrayLike | torch.Tensor | None = None,
        param_mean: ArrayLike | torch.Tensor | None = None,
    ) -> None:
        """Store scales with the network: those of trajectories, ``set_scales(data)``, or given ones.

        Trajectories give means, too, of the channels and parameters whose mean is more than four standard deviations from zero.

        Args:
            state_scale: Standard deviation of every channel, `(C,)`, or trajectories that have them all.
            param_scale: Standard deviation of every parameter, `(K,)`; none if None.
            state_mean: Mean of every channel, `(C,)`; zero if None.
            param_mean: Mean of every parameter, `(K,)`; zero if None.

        Raises:
            ConfigError: A scale is not positive, or there are too many or too few.
        """
        if hasattr(state_scale, "scales") and hasattr(state_scale, "means"):
            alone = param_scale is None and state_mean is None and param_mean is None
            require_that(
                alone, "set_scales takes trajectories alone, or scales and means: leave out what comes after the data."
            )
            state_scale, param_scale, state_mean, param_mean = _scales_and_means(state_scale)
        param_scale = () if param_scale is None else param_scale
        states = _normalisation("states", state_scale, state_mean, self.state_scale)
        parameters = _normalisation("parameters", param_scale, param_mean, self.param_scale)
        self.state_scale.copy_(states[0])
        self.param_scale.copy_(parameters[0])
        self.state_mean, self.param_mean = states[1], parameters[1]
        self._looked_at_inputs = True

    def take_form_of(self, tensors: Mapping[str, Any], prefix: str) -> None:
        """Have means where stored tensors have them, and none where they have none; see :func:`take_form_of`."""
        self.state_mean = torch.zeros_like(self.state_scale) if f"{prefix}state_mean" in tensors else None
        self.param_mean = torch.zeros_like(self.param_scale) if f"{prefix}param_mean" in tensors else None

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self.take_form_of(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        count, expected = 0 if params is None else params.shape[1], len(self.param_scale)
        if count != expected:
            raise ConfigError(f"the corrector was built for {expected} parameters, got {count}: pass what the spec names.")
        if not self._looked_at_inputs and torch.is_grad_enabled():
            self._look_at_inputs(states, params)
        inputs = (states if self.state_mean is None else states - self.state_mean) / self.state_scale
        if params is not None:
            constant = params.view(*params.shape, *[1] * (states.dim() - 2))
            constant = (constant if self.param_mean is None else constant - self.param_mean) / self.param_scale
            inputs = torch.cat([inputs, constant.expand(-1, -1, *states.shape[2:])], dim=1)
        if states.dim() == 4:  # convolutions of few channels run a quarter faster in this layout
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        output: torch.Tensor = self.network(inputs)
        return (output if self._of_inputs else output * self.state_scale) * self.active

    def _look_at_inputs(self, states: torch.Tensor, params: torch.Tensor | None) -> None:
        """Warn once, where training begins, of a network without scales whose inputs are far from unit size."""
        if torch.compiler.is_compiling():
            return
        try:
            given, rows = to_array(states), None if params is None else to_array(params)
        except RuntimeError:  # numbers that nobody can read, inside vmap for one
            return
        self._looked_at_inputs = True
        if bool((self.state_scale != 1).any()) or bool((self.param_scale != 1).any()):  # loaded from a checkpoint
            return
        channels, parameters = self._names
        far = [_in_words(name, x) for name, x in zip(channels, given.swapaxes(0, 1), strict=False) if _is_far(x)]
        named = [] if rows is None else list(zip(parameters, rows.T, strict=True))
        far += [_in_words(name, x) for name, x in named if np.abs(x).max(initial=0) > UNIT_SIZE[1]]
        if far:
            warnings.warn(
                f"the corrector has no scales, and its inputs are far from unit size ({'; '.join(far)}), with which it learns "
                "badly: make it as small(spec, data=trajectories), or call corrector.set_scales(trajectories).",
                ScaleWarning,
                stacklevel=5,  # the line that calls the corrector
            )


def take_form_of(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give the correctors in a network means where its stored tensors have them, and take them away where they have none.

    Args:
        network: Network that the tensors are to be loaded into.
        tensors: Its parameters and buffers by name.
    """
    for place, module in network.named_modules():
        if isinstance(module, Corrector):
            module.take_form_of(tensors, f"{place}." if place else "")


def _scales_and_means(data: Any) -> tuple[NDArray[Any], ...]:
    """Return what trajectories are scaled by: deviations of states and parameters, and the means that are far from zero."""
    scales = data.scales()
    means = (np.where(np.abs(mean) > FAR * scale, mean, 0.0) for mean, scale in zip(data.means(), scales, strict=True))
    return (*scales, *means)


def _normalisation(name: str, scale: Any, mean: Any, buffer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Bring a scale and a mean into the form of a buffer; a mean that is zero everywhere is None."""
    scales = _numbers("scales", name, scale, buffer)
    if not bool((scales > 0).all()):
        raise ConfigError(
            f"the scales of the {name} must be positive, got {scales.flatten().tolist()}: a channel or parameter that never "
            "varies in the training data has none; give it scale 1."
        )
    means = None if mean is None else _numbers("means", name, mean, buffer)
    return scales, None if means is None or not means.any() else means.to(buffer)


def _numbers(what: str, name: str, values: Any, buffer: torch.Tensor) -> torch.Tensor:
    """Convert a number for each channel or parameter to a tensor of a buffer's shape, in double precision."""
    values = to_array(values) if isinstance(values, torch.Tensor) else values
    try:
        numbers = torch.from_numpy(np.array(values, dtype=np.float64))
    except (TypeError, ValueError) as error:
        kind = type(values).__name__
        raise ConfigError(f"the {what} of the {name} must be an array of numbers, or trajectories, not {kind}.") from error
    if numbers.numel() != len(buffer):
        raise ConfigError(f"the corrector needs {len(buffer)} {what} of the {name}, got {numbers.numel()}: one for each.")
    return numbers.view_as(buffer)


def _is_far(values: NDArray[Any]) -> bool:
    """Tell a channel that varies much or little, or lies far from zero, as numbers go for networks."""
    spread = float(values.std()) if values.size else 1.0
    return (0 < spread < UNIT_SIZE[0]) or spread > UNIT_SIZE[1] or abs(float(values.mean())) > UNIT_SIZE[1]


def _in_words(name: str, values: NDArray[Any]) -> str:
    return f"{name} with mean {float(values.mean()):.3g} and standard deviation {float(values.std()):.3g}"


class NoCorrection(nn.Module):
    """Corrector that is always zero: the solver alone."""

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return torch.zeros_like(states)


def none(spec: SolverSpec, of_inputs: bool = False) -> NoCorrection:
    """Build no network: the solver alone, whose scenario parameters are trained.

    Raises:
        ConfigError: The solver's inputs are wanted of it.
    """
    require_that(not of_inputs, "network none provides no inputs for a solver: take coupling after, or another network.")
    return NoCorrection()


class _ResidualBlock(nn.Module):
    """Residual block, `act(x + conv(act(conv(x))))`."""

    def __init__(self, first: nn.Module, second: nn.Module, slope: float) -> None:
        super().__init__()
        self.first, self.second, self.activation = first, second, nn.LeakyReLU(slope)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.activation(x + self.second(self.activation(self.first(x))))
        return result


def _channels(spec: SolverSpec, of_inputs: bool) -> tuple[int, int]:
    """Count the channels in (states and parameters) and out (states, or the solver's inputs)."""
    return spec.state_shape[0] + len(spec.parameters), len(spec.inputs) if of_inputs else spec.state_shape[0]


def _zero(layer: nn.Module) -> nn.Module:
    """Set a layer's weights to zero, so that an untrained corrector leaves the solver as it is."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _residual(
    spec: SolverSpec, width: int, blocks: int, kernel: int, padding: Padding, data: Scaled | None, of_inputs: bool
) -> Corrector:
    inputs, outputs = _channels(spec, of_inputs)

    def conv(i: int, o: int) -> nn.Module:
        return convolution(spec, i, o, kernel, padding)

    layers = [conv(inputs, width), nn.LeakyReLU(0.3)]
    layers += [_ResidualBlock(conv(width, width), conv(width, width), 0.3) for _ in range(blocks)]
    return Corrector(spec, nn.Sequential(*layers, _zero(conv(width, outputs))), data, of_inputs)


def small(
    spec: SolverSpec,
    width: int = 4,
    blocks: int = 1,
    kernel: int = 3,
    padding: Padding = "zeros",
    data: Scaled | None = None,
    of_inputs: bool = False,
) -> Corrector:
    """Make a residual network small enough for CGE on a CPU: 482 parameters on the wake.

    Args:
        spec: Spec of the solver to correct.
        width: Channels between.
        blocks: Number of residual blocks.
        kernel: Points of a convolution along each axis; an odd number.
        padding: Values outside the domain: zeros, circular (of a periodic domain) or replicate (the nearest inside); or a list
            with one of these for each axis.
        data: Trajectories that scale its inputs and outputs; `deepzero-sim train` and `dz.train` do this themselves.
        of_inputs: True for a network inside a step, which provides the inputs that the spec names.
    """
    require_sizes(width=width, kernel=kernel)
    require_sizes(0, blocks=blocks)
    return _residual(spec, width, blocks, kernel, padding, data, of_inputs)


def mars_moon(spec: SolverSpec, padding: Padding = "zeros", data: Scaled | None = None, of_inputs: bool = False) -> Corrector:
    """Make Um et al.'s network: five residual blocks of 32 channels, 5 x 5 kernels; 260,354 parameters on the wake."""
    return _residual(spec, 32, 5, 5, padding, data, of_inputs)


def mercury(spec: SolverSpec, padding: Padding = "zeros", data: Scaled | None = None, of_inputs: bool = False) -> Corrector:
    """Make Um et al.'s smaller network: three 5 x 5 convolutions, 32 and 64 channels between; 56,898 parameters on the wake."""
    inputs, outputs = _channels(spec, of_inputs)
    layers = [
        convolution(spec, inputs, 32, 5, padding),
        nn.LeakyReLU(0.3),
        convolution(spec, 32, 64, 5, padding),
        nn.LeakyReLU(0.3),
        _zero(convolution(spec, 64, outputs, 5, padding)),
    ]
    return Corrector(spec, nn.Sequential(*layers), data, of_inputs)


#: Correctors that settings call by a short name.
CORRECTORS: dict[str, Callable[..., Corrector]] = {"small": small, "mercury": mercury, "mars_moon": mars_moon}
