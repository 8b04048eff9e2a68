"""Data sets, streams, samplers and masks for PyTorch; they need torch and the corpus format only."""
