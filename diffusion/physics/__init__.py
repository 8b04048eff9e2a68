"""Source phases, noise, singularities, and the global and linear phase of MR images."""
