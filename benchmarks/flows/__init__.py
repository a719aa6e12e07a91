"""Flows with a differentiable twin, and what a gradient past their coarse solvers is worth: `deepzero-sim bench flows`."""
