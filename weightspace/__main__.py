"""`python -m weightspace` is the command `weightspace`."""

import sys

from weightspace.cli import main

sys.exit(main())
