"""All cases of all faults, and the table of their results."""
