"""Exports: the volumes of a corpus as files for other tools; `formats.py` lists the formats."""
