"""Hostile files by the thousand: what the readers, the loader and the checks make of them, and what they should."""
