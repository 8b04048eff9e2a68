"""Simulated anatomy and phase for training."""
