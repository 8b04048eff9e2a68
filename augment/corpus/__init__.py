"""The corpus format: layout, receipts, index, encoding, checks; it is independent of builders and loaders."""
