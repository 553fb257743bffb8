"""The configuration files: their models, and how they are read."""
