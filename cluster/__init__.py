"""Where the work runs: from a value of `--cluster` to a Dask client with workers."""
