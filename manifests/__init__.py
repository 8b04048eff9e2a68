"""Manifest CSVs: from text to validated rows, and from folders to text."""
