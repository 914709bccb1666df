"""`python -m pairlens_server`."""

import sys

from pairlens_server.app import main

sys.exit(main())
