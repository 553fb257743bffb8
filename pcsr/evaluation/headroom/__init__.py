"""What is left to save (``page``), and what an ``oracle`` would save of it."""
