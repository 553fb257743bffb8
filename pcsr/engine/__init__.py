"""The fast, exact path: what a method defines for a fraction of its work, in bounded memory.

``runners`` finds the runner of a method. ``tiles`` are what an image is cut into to fit in
memory, ``memory`` finds how. ``engine`` runs an encoder and routed heads on tiles, the heads by
``cpu.heads`` (in strips of a few LR rows) or ``gpu.heads`` (by kernels). ``deploy`` lays networks
out for inference, ``cpu.products`` multiplies narrow matrices, ``cpu.blockwise`` trains heads in
cache, ``graph`` is what is exported.
"""
