"""Methods: a set of branches with costs, a score per unit, and a router with one knob."""
