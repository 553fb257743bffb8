"""What makes CPUs fast: heads in cache (``heads``, ``strips``), training them (``blockwise``).

``onednn`` multiplies narrow matrices and lets convolutions do what follows them; originals and
encoders use it as well.
"""
