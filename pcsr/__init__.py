"""PCSR and adaptive-compute baselines for super-resolution: reproduced, audited, measured alike.

``pcsr.load`` reads weights; what it returns upscales images (``pcsr.evaluation.model``).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcsr.evaluation.model import Model, Result, load

__version__ = "0.2.0"
__all__ = ["Model", "Result", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the Python interface when it is first used: the command line must not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module 'pcsr' has no attribute '{name}'")
    from pcsr.evaluation import model  # noqa: PLC0415 - imports torch

    return getattr(model, name)
