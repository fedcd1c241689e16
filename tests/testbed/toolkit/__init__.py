"""Stand-ins for the NVIDIA Container Toolkit's programs, and the four packages that carry them."""
