"""What the server that runs are forked from does first. Importing this is for that server alone.

A signal sent to the whole group, as by a terminal, `timeout` or a batch system, is for the sweep, which passes it on.
"""

import os
import signal

os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
