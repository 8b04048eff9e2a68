"""`rephase evaluate phase`: the difference between generated and real phase; see EVALUATION.md next to the package."""
