"""The experiment on segmentation: skull stripping from complex images and from k-space."""
