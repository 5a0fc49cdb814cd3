"""The second process of the sample: it says what time it is, now and then."""

import os
import time

SECONDS = float(os.environ.get("CLOCK_SECONDS", "10"))

while True:
    print("it is", time.strftime("%H:%M:%S"), flush=True)
    time.sleep(SECONDS)
