"""Selection of the largest entries of groups and rows: sorting networks, partitions, a Triton kernel."""
