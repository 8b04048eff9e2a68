"""Read HDF5: fastMRI files, and named datasets of other files."""
