"""File formats by their short names. A format of one's own is a subclass of :class:`Format`."""

from deepzero_sim.connectors.formats.base import Content, Format
from deepzero_sim.connectors.formats.binary import Npy, Raw
from deepzero_sim.connectors.formats.fortran import Fortran
from deepzero_sim.connectors.formats.hdf5 import Hdf5
from deepzero_sim.connectors.formats.openfoam import OpenFoam
from deepzero_sim.connectors.formats.text import Text

FORMATS = {"npy": Npy, "raw": Raw, "fortran": Fortran, "text": Text, "hdf5": Hdf5, "openfoam": OpenFoam}

__all__ = ["FORMATS", "Content", "Format", "Fortran", "Hdf5", "Npy", "OpenFoam", "Raw", "Text"]
