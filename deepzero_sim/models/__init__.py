"""Networks: correctors for solver loops."""

from deepzero_sim.models.corrector import CORRECTORS, Corrector, mars_moon, mercury, small

__all__ = ["CORRECTORS", "Corrector", "mars_moon", "mercury", "small"]
