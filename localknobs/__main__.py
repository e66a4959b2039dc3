"""`python -m localknobs`."""

import sys

from localknobs.cli import main

sys.exit(main())
