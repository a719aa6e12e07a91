"""A recording made to fit a solver: its channels, axes, units, times and grid."""
