"""Image files: what their headers say, decoding without loss, encoding. One door for each."""
