"""Build one volume, from source files to committed arrays; independent of the cluster."""
