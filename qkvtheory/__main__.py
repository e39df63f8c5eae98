"""python -m qkvtheory"""

import sys

from qkvtheory.cli import main

sys.exit(main())
