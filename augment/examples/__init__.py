"""Example scripts to copy and adapt."""
