"""The experiment on reconstruction: undersampled k-space to an image."""
