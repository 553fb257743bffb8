"""Training, for every method and stage."""
