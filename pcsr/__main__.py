"""``python -m pcsr`` is the console script ``pcsr``."""

from pcsr.cli import main

if __name__ == "__main__":
    main()
