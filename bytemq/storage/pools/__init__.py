"""Several stores of one cluster: which there are, how they are, where what is new goes, and emptying one."""
