"""Fan-out: many models and tasks pruned by many processes, on this machine or on a Ray cluster."""
