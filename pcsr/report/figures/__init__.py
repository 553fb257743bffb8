"""Figures: PSNR over FLOPs (in a ``style``, with ``notes``), and one image in a ``showcase``."""
