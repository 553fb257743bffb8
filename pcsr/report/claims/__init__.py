"""Claims: what is ``published``, in tables, ``logs`` and a curve's knobs, and what was measured."""
