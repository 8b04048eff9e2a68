"""The corpus format: layout, receipts, index, encoding, checks; it does not know who writes or reads it."""
