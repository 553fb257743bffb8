"""What makes CPUs fast: heads in cache (``heads``, ``strips``), training them (``blockwise``).

``products`` multiplies narrow matrices and ``convolutions`` lays out FSRCNN's tail, both for the
networks before the heads as well.
"""
