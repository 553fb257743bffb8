"""Networks: those that PCSR, ClassSR and ARM make adaptive, and static ones to compare them with.

A backbone is a module ``(N, 3, h, w) -> (N, 3, h*scale, w*scale)``. With ``scale=None`` it has no
tail and is an encoder ``(N, 3, h, w) -> (N, width, h, w)``. LR images have values in [0, 1].
"""
