"""Training speed, beside a reference loop."""
