"""L4: the hosts. One file each, translation only."""
