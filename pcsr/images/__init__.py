"""Image files: the only place that reads headers, decodes without loss, and encodes."""
