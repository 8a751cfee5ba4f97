"""`make bench`: this trainer, the same with plain rows, and TRL's GRPOTrainer, in one run."""
