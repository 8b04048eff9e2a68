"""Manifests: CSV files with one row per volume, read into validated rows and written by scanning folders."""
