"""PCSR and adaptive-compute baselines for super-resolution: reproduced, audited, measured alike."""

__version__ = "0.1.0"
