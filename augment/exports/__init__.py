"""Exports: a corpus as files for other tools. `formats.py` names the formats, `driver.py` writes them resumably."""
