"""`python -m weightspace` is the command `weightspace`."""

import sys

from weightspace.cli.main import main

sys.exit(main())
