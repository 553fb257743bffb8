"""Files: where they lie, how they are written, what they are, lines of unfinished jobs."""
