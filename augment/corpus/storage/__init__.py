"""Storage of a corpus: a local disk, S3, and other URLs (read-only)."""
