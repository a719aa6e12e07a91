"""Lines of the solver contract, each a function from a trial to a finding."""
