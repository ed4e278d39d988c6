"""Beyond one machine: the workers of a service, or of a batch, as actors of a Ray cluster.

Ray is an optional extra and imported nowhere but in here.
"""


class ClusterError(RuntimeError):
    """Ray is missing or its cluster cannot be used; the message says what to do."""
