"""Whether a gradient that was estimated past a solver is the true one, and what it cost."""

from deepzero_sim.check.agreement import Agreement
from deepzero_sim.check.gradient import GradientCheck, Steps, check_gradient, held_against
from deepzero_sim.check.layer_products import LayerProducts
from deepzero_sim.check.parameter_gradients import ParameterGradients
from deepzero_sim.check.sweep import Sweep
from deepzero_sim.check.truth import Truth, measure_truth

__all__ = [
    "Agreement",
    "GradientCheck",
    "LayerProducts",
    "ParameterGradients",
    "Steps",
    "Sweep",
    "Truth",
    "check_gradient",
    "held_against",
    "measure_truth",
]
