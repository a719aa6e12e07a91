"""Readers of foreign data: each finds out what a file says of itself, and reads frames when they are asked for.

name                 what it is                                             told by
well                 The Well: HDF5 with scalars, vectors, tensors          groups dimensions and t0_fields, ..
pdebench             PDEBench: `tensor`, `density` .., numbered groups,     x-coordinate, /0000/data, velocity with t
                     incompressible flow
solver-in-the-loop   folders of PhiFlow 1.x: sim_000000/velo_000000.npz     names of folders and files
netcdf               netCDF 3 and 4, by the CF conventions                  first bytes; dimension scales
zarr                 Zarr stores of version 2 and 3, with or without names  zarr.json, .zgroup, .zarray
npy                  one array, or a folder of them                         first bytes
npz                  named arrays                                           first bytes
matlab               MATLAB 5 to 7.3                                        first bytes
hdf5                 any other HDF5: named arrays                           none of the others

A folder of files of one format (but for Zarr and Solver-in-the-Loop) holds one set of simulations, joined in the order of
their names. Arrays whose axes nothing names (npy, npz, matlab, hdf5, plain Zarr) need the option `axes`, unless every length
is that of one known thing, or all but that of the simulations are. Single numbers, and lists of one for each simulation, are
scenario parameters.
"""

from deepzero_sim.datasets.foreign.options import ReadingOptions
from deepzero_sim.datasets.foreign.reading import FORMATS, detect, read_recording
from deepzero_sim.datasets.foreign.well_writer import write_well

__all__ = ["FORMATS", "ReadingOptions", "detect", "read_recording", "write_well"]
