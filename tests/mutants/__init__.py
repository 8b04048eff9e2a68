"""Mutation testing of the code that keeps and limits: `python -m tests.mutants`."""
