"""Connect to the cluster of a build: from a value of `--cluster` to a Dask client with workers."""
