"""The first line of an error, as messages quote it."""

import pytest

from midstate.common.errors import first_line


@pytest.mark.parametrize(
    ("message", "line"),
    [("", "ValueError"), ("\n  a \nb", "a"), ("\x1b[1mtwo\x1b[0m options, \x1b[1m\n", "two options,")],
)
def test_the_first_line_has_no_colours_and_is_never_empty(message, line):
    assert first_line(ValueError(message)) == line
