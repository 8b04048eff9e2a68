"""`rephase bench`: how fast this machine samples, builds and loads; figures and ratios of one run."""
