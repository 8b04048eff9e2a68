"""`rephase evaluate phase`: how far generated phase is from real phase; see EVALUATION.md beside the package."""
