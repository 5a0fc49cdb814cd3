"""Run the tests twice at once, plain and monkey-patched: one pass leaves half of two cores idle.

The arguments are those of pytest. What the second pass says is printed when the first one is done.
"""

import subprocess
import sys
import tempfile

with tempfile.TemporaryFile() as said:
    print("plain, while the monkey-patched pass runs beside it", flush=True)
    patched = subprocess.Popen(
        [sys.executable, "-m", "dploylib.testing", *sys.argv[1:]], stdout=said, stderr=subprocess.STDOUT
    )
    try:
        plain = subprocess.call([sys.executable, "-m", "pytest", *sys.argv[1:]])
        patched.wait()
    finally:
        patched.kill()
    print("monkey-patched", flush=True)
    said.seek(0)
    sys.stdout.buffer.write(said.read())
sys.exit(plain or patched.returncode)
