"""First import of the fork server: caches the commit of the code that it imports next."""

from midstate.common.project import git_commit

COMMIT = git_commit()  # cached, so that every run forked later reports this one
