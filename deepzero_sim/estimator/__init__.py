"""Gradient estimators: which perturbations to ask an oracle for, and what its answers say of the gradient."""

from deepzero_sim.estimator.backpropagation import BackPropagation
from deepzero_sim.estimator.base import Estimator, GradientEstimate
from deepzero_sim.estimator.cge import CGE
from deepzero_sim.estimator.rge import RGE

__all__ = ["CGE", "RGE", "BackPropagation", "Estimator", "GradientEstimate"]
