"""What we run on: the cluster, the strategy, the precision, and the signals that stop us."""
