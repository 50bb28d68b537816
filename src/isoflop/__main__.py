"""`python -m isoflop` is the command `isoflop`."""

import sys

try:
    from isoflop.cli import main
except KeyboardInterrupt:
    sys.exit(130)  # signals have their handlers only after these imports

if __name__ == "__main__":
    main()
