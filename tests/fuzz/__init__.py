"""Fuzzing of readers, loader and checks with thousands of damaged files, compared with simpler readings of them."""
