"""Check of a gradient that was estimated past a solver: does it agree with the true one, and what did it cost?"""

from deepzero_sim.checks.gradient.gradient_check import GradientCheck, Steps, check_gradient, compare_with_truth
from deepzero_sim.checks.gradient.layer_products import LayerProducts
from deepzero_sim.checks.gradient.parameter_gradients import ParameterGradients
from deepzero_sim.checks.gradient.sweep import Sweep
from deepzero_sim.checks.gradient.truth import Agreement, Truth, measure_truth

__all__ = [
    "Agreement",
    "GradientCheck",
    "LayerProducts",
    "ParameterGradients",
    "Steps",
    "Sweep",
    "Truth",
    "check_gradient",
    "compare_with_truth",
    "measure_truth",
]
