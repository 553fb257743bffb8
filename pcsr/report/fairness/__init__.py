"""Fair comparisons: of a suite's curves, ``choices`` of a protocol, and the static ``frontier``."""
