"""`python -m sdar.cli` is `sdar`."""

from sdar.cli import main

if __name__ == "__main__":
    main()
