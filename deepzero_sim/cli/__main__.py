"""`python -m deepzero_sim.cli`, for torchrun."""

import sys

from deepzero_sim.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
