"""Imported first by the fork server: the commit of the code that it imports next."""

from midstate.common.project import git_commit

COMMIT = git_commit()  # remembered, and so that of every run forked later
