"""Fast kernels for differences of images; the rest of the package does not know how they compute."""
