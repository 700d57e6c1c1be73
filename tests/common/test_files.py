"""Files that belong together, on a disk that takes no more."""

import resource

import pytest

from midstate.common.files import write_together


def test_where_one_cannot_be_written_all_stay_as_they_were(tmp_path):
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    write_together({small: b"old", large: b"old"})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # as a full disk: writing beyond it fails
    try:
        with pytest.raises(OSError, match="File too large"):
            write_together({small: b"new", large: b"new" * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"small.csv": b"old", "large.csv": b"old"}
    write_together({small: b"new", large: b"new" * 10_000})
    assert (small.read_bytes(), large.read_bytes()) == (b"new", b"new" * 10_000)
