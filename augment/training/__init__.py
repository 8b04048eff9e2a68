"""Train and distil networks on the real phase of a manifest."""
