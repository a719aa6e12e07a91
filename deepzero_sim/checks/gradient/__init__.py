"""Whether a gradient that was estimated past a solver is the true one, and what it cost."""

from deepzero_sim.checks.gradient.agreement import Agreement
from deepzero_sim.checks.gradient.gradient_check import GradientCheck, Steps, check_gradient, held_against
from deepzero_sim.checks.gradient.layer_products import LayerProducts
from deepzero_sim.checks.gradient.parameter_gradients import ParameterGradients
from deepzero_sim.checks.gradient.sweep import Sweep
from deepzero_sim.checks.gradient.truth import Truth, measure_truth

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
