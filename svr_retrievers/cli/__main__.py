"""`python -m svr_retrievers.cli` is `svr`."""

from __future__ import annotations

import sys

from svr_retrievers.cli import main

sys.exit(main())
