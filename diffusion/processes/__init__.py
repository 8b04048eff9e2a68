"""The learned processes, one module each."""
