"""What the server that runs are forked from does first. Importing this is for that server alone.

A signal sent to the whole group, as by a terminal, `timeout` or a batch system, is for the sweep, which passes it on.
"""

import os
import signal

from midstate.common.project import git_commit

os.setsid()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # kept for the run where it was meant for one just forked
git_commit()  # of the code as it is imported now; runs remember it
