"""`python -m synchuman`."""

import sys

from synchuman.cli import main

sys.exit(main())
