"""One Fetch request, from its first look at the partitions until its answer."""
