"""The fast exact path: PCSR's output from a part of its work, in a bounded amount of memory.

``factored`` splits a head's first layer, ``grids`` lays LR rows out to HR pixels, ``parts`` cuts
images that are too large, and ``sparse`` runs an encoder and routed heads on them.
"""
