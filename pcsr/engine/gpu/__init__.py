"""Heads on a GPU (``heads``), each by one kernel (``kernels``); both modules need triton."""
