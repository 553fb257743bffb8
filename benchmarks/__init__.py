"""Latency and training-speed benchmarks; not part of what they measure."""
