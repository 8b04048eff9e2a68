"""nifti."""
