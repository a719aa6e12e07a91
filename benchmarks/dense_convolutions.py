"""Cost of dense convolutions: the number that a query needs, and this machine's rate.

A query that perturbs one parameter of layer `k` leaves everything before `k` as it is. The first convolution after it sees a
change of one channel, 1/C_in of its work; all later ones see a dense change. An engine that spends time on nothing else, and
runs these convolutions as fast as the machine can, is the limit that engines are compared with.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

#: Least number of images that a convolution is timed on: an engine may answer several queries in one call. A GPU needs more.
LEAST_IMAGES = {"cpu": 64, "cuda": 4096}


@dataclass(frozen=True)
class Layer:
    """Run of a module with parameters of its own.

    Args:
        module: Module.
        parameters: Number of its parameters.
        input_shape: Shape of its input, without the batch axis.
        flops: Operations of its dense convolution on the whole batch, a multiplication and an addition being two; 0 if it is
            no convolution.
    """

    module: nn.Module
    parameters: int
    input_shape: tuple[int, ...]
    flops: float

    @property
    def one_channel_flops(self) -> float:
        """Operations if only one input channel changes."""
        return self.flops / self.input_shape[0]


@torch.no_grad()
def layers_of(model: nn.Module, inputs: torch.Tensor) -> list[Layer]:
    """Record the layers of a network in the order they run; on a copy, whose buffers may change."""
    layers: list[Layer] = []

    def note(module: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        count = sum(p.numel() for p in module.parameters(recurse=False))
        per_output = 2 * module.weight[0].numel() if isinstance(module, nn.Conv2d) else 0
        layers.append(Layer(module, count, tuple(given[0].shape[1:]), per_output * output.numel()))

    model = copy.deepcopy(model)
    layered = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    hooks = [module.register_forward_hook(note) for module in layered]
    model(inputs)
    for hook in hooks:
        hook.remove()  # the layers are called again to be timed
    return layers


def mean_flops_behind(layers: Sequence[Layer]) -> float:
    """Average the floating-point operations of dense convolutions behind a parameter over all parameters."""
    total = 0.0
    for number, layer in enumerate(layers):
        after = [later for later in layers[number + 1 :] if later.flops]
        behind = after[0].one_channel_flops + sum(later.flops for later in after[1:]) if after else 0.0
        total += layer.parameters * behind
    return total / sum(layer.parameters for layer in layers)


def best_rate(layers: Sequence[Layer], batch: int, device: str, seconds: float) -> float:
    """Measure the floating-point operations a second of the fastest of the network's convolutions, float32 and channels-last.

    Args:
        layers: Layers of the network, on the device.
        batch: Batch size that their operations were counted for.
        device: Device, ``"cpu"`` or ``"cuda"``.
        seconds: Seconds for each shape of convolution.
    """
    images = max(batch, LEAST_IMAGES[device])
    shapes = {_shape(layer): layer for layer in layers if layer.flops}
    return max(layer.flops * images / batch / _fastest_call(layer, images, seconds) for layer in shapes.values())


def _shape(layer: Layer) -> tuple[Any, ...]:
    assert isinstance(layer.module, nn.Conv2d)
    return layer.input_shape, layer.module.weight.shape, layer.module.stride


@torch.no_grad()
def _fastest_call(layer: Layer, images: int, seconds: float) -> float:
    convolution = copy.deepcopy(layer.module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = convolution.weight.device
    x = torch.randn(images, *layer.input_shape, device=device).contiguous(memory_format=torch.channels_last)
    convolution(x)  # warm-up
    wait_for(device)
    fastest, end = float("inf"), time.perf_counter() + seconds
    while fastest == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        convolution(x)
        wait_for(device)
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def wait_for(device: torch.device | str) -> None:
    """Wait until a device has done its work: a GPU returns from calls before it has done them."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
