"""`rephase bench`: the speed of sampling, building and loading on this machine."""
