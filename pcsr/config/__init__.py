"""Configuration files: typed models, and loading."""
