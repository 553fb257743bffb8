"""The fast, exact path: PCSR's output for a fraction of its work, in bounded memory.

``factored`` splits a head's first layer. ``grids`` orders the HR pixels of a few LR rows. ``parts``
cuts images that are too large. ``sparse`` runs an encoder and routed heads on the parts, with
``banded`` on a CPU and ``fused`` on a GPU. ``runners`` finds the runner of a method.
"""
