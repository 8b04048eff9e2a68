"""The way of the data: from a magnitude volume to a shard of synthetic k-space, and to a training loader."""
