"""`python -m isoflop` is the command `isoflop`."""

from isoflop.cli import main

if __name__ == "__main__":
    main()
