"""Where the work runs: from a `--cluster` value to a Dask client whose workers are set up."""
