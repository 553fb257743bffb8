"""Training runs of every method and stage."""
