"""Places that hold a corpus: a local disk, S3, and other URLs to read."""
