"""All cases of all faults, and the table of what they came to."""
