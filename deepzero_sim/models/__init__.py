"""Networks: correctors for solver loops, and classifiers of small images."""

from deepzero_sim.common.arguments import guard_calls as _guard_calls
from deepzero_sim.models.corrector import CORRECTORS, Corrector, NoCorrection, mars_moon, mercury, small
from deepzero_sim.models.resnet import ResNet, resnet20, resnet32, resnet44, resnet56
from deepzero_sim.models.small_cnn import small_cnn

__all__ = [
    "CORRECTORS",
    "Corrector",
    "NoCorrection",
    "ResNet",
    "mars_moon",
    "mercury",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "small",
    "small_cnn",
]

_guard_calls(__name__)
