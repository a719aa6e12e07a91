"""Tools that all rooms share and that know nothing of solvers or networks."""
