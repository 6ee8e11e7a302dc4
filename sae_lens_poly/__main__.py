"""``python -m sae_lens_poly``."""

import sys

from sae_lens_poly.cli import main

sys.exit(main())
