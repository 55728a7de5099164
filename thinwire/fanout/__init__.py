"""Fan-out: several models and tasks pruned by several processes, on this machine or on a Ray cluster."""
