"""A front, for tests: python front_process.py CONTROL_PATH [PATIENCE]."""

import logging
import sys

from dploylib.daemon.front import Front

logging.basicConfig(level=logging.INFO, format="front %(process)d %(levelname)s %(message)s")
Front(sys.argv[1], *map(float, sys.argv[2:])).run()
