"""Choice of a vector-Jacobian product by measured products and their cost."""
