"""Gradient estimators: which perturbations to ask an oracle for, and what its answers say of the gradient."""

from deepzero_sim.estimators.backpropagation import BackPropagation
from deepzero_sim.estimators.base import Estimator, GradientEstimate
from deepzero_sim.estimators.cge import CGE
from deepzero_sim.estimators.cocd import CoCD
from deepzero_sim.estimators.eki import EKI
from deepzero_sim.estimators.evolution_strategies import EvolutionStrategies
from deepzero_sim.estimators.gauss_newton import GaussNewton
from deepzero_sim.estimators.rge import RGE

__all__ = [
    "CGE",
    "EKI",
    "RGE",
    "BackPropagation",
    "CoCD",
    "Estimator",
    "EvolutionStrategies",
    "GaussNewton",
    "GradientEstimate",
]
