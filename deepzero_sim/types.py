"""Names for the types that cross the package's seams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

#: Solver states, shape `(B, C, *N)`, or parameters, shape `(B, K)`; float32 or float64.
Array: TypeAlias = NDArray[np.floating[Any]]

#: Tensors named as in `torch.nn.Module.named_parameters()`: gradients, or the parameters themselves.
NamedTensors: TypeAlias = dict[str, torch.Tensor]

#: Active coordinates: a bool tensor of the parameter's own shape for each name that is active at all.
Mask: TypeAlias = Mapping[str, torch.Tensor]
