"""Exports: a corpus as files for other tools. a module for each format, `driver.py` writes them resumably."""
