"""Workers as jobs of SLURM."""
