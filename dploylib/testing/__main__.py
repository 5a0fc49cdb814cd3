"""pytest, after gevent has patched the standard library, before anything else is imported.

For example::

    python -m dploylib.testing tests
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402 - patching comes first

import pytest  # noqa: E402 - patching comes first

if __name__ == "__main__":
    # pytest warns of what was imported before it can rewrite assertions there. So it was not, but for this module.
    for name in ("dploylib.testing", "dploylib"):
        del sys.modules[name]
    sys.exit(pytest.main())
