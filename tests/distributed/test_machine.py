"""Freed memory, in a real process."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from midstate.distributed.machine import keep_freed_memory
torch.set_num_threads(1)
kept = keep_freed_memory() if {keep} else True
for step in range(30):
    if step == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.ones(16 * 2**20) for _ in range(4)]  # 64 MiB each
    del activations
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own")
def test_memory_that_was_freed_is_not_paged_in_again():
    kept, faults = _run(keep=True)
    assert kept == "True"
    assert int(faults) < 500
    # Otherwise every allocation of 64 MiB would cost its 16,384 pages, 80 times over.


def _run(*, keep: bool):
    script = FAULTS.format(keep=keep)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
