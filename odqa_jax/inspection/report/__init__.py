"""The page of a training run, in one file that needs nothing else."""
