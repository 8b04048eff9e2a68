"""The HTML page of a corpus."""
