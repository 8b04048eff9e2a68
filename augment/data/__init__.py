"""Data sets, streams, samplers and masks for PyTorch; they require only torch and the corpus format."""
