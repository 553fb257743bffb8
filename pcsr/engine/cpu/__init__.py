"""What makes CPUs fast: heads in cache (``heads``, ``strips``), training them (``blockwise``).

``products`` multiplies narrow matrices and ``convolutions`` lays out FSRCNN's layers; originals and
encoders use both as well.
"""
