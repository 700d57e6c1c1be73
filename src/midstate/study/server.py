"""What the server that runs are forked from imports first: the commit of the code that it is about to import."""

from midstate.common.project import git_commit

COMMIT = git_commit()  # remembered, and so that of every run forked later
