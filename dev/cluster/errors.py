"""The one error of this package: what failed, where to look, what to do."""


class ClusterError(Exception):
    """Something of the local cluster could not be made, started or stopped; the message names the remedy."""
