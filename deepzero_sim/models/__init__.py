"""Networks: correctors for solver loops."""

from deepzero_sim.models.corrector import CORRECTORS, Corrector, NoCorrection, mars_moon, mercury, small

__all__ = ["CORRECTORS", "Corrector", "NoCorrection", "mars_moon", "mercury", "small"]
