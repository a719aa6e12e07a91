"""Trajectories made with a solver: ensembles of starts, simulations in workers, the file."""
