"""``python -m sae_lens_poly``."""

import sys

from sae_lens_poly.cli import main

if __name__ == "__main__":
    sys.exit(main())
