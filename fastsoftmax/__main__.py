"""``python -m fastsoftmax`` is the console script ``fastsoftmax``."""

from fastsoftmax.cli import main

if __name__ == "__main__":
    main()
