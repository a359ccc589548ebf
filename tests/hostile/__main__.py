"""``python -m tests.hostile``."""

from tests.hostile.process import main

if __name__ == "__main__":
    main()
