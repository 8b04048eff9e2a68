"""The generative model of MR phase: networks, processes, samplers and baselines on torch tensors."""
