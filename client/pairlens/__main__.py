"""`python -m pairlens` is the command `pairlens`."""

import sys

from pairlens.cli import main

sys.exit(main())
