"""Selection of the largest, of groups and of rows: sorting networks, partitions, a Triton kernel."""
