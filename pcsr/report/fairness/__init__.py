"""Fair comparisons: a suite's curves, ``choices`` of the protocol, and the static ``frontier``."""
