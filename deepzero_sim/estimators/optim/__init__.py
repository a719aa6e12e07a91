"""Estimators as optimisers of torch, whose `step` takes a closure, for training loops of a user's own."""

from deepzero_sim.estimators.optim.by_queries import CGE, EKI, RGE, CoCD, EvolutionStrategies, GaussNewton, fill_gradients

__all__ = ["CGE", "EKI", "RGE", "CoCD", "EvolutionStrategies", "GaussNewton", "fill_gradients"]
