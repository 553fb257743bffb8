"""The fast, exact path: the image that a method defines, for less work and in bounded memory.

``base`` defines runners, and ``runners`` finds the one for a method. ``tiles`` cuts images to fit
in ``memory``. ``pixels`` runs PCSR, its heads by ``cpu.heads`` (in strips of a few LR rows) or
``gpu.heads`` (by kernels). ``deploy`` lays networks out for inference, ``cpu.onednn`` multiplies
narrow matrices, ``cpu.blockwise`` trains heads in cache, ``graph`` is for export.
"""
