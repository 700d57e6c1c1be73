"""File formats of a finished network for other programs: each module makes the content of one file."""
