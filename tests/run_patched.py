"""Run pytest in a process where gevent patched the standard library before anything else was imported."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402 - patching comes first

import pytest  # noqa: E402 - patching comes first

sys.exit(pytest.main(sys.argv[1:]))
