"""Errors and delays on purpose, below an image: what the daemon is told of them.

They strike what changes the file, not what reads it: an error when an image is read is the end of who reads it, and shows no wrong byte.
"""
# What qcow2 images are about to do when it happens, see docs/qmp-reference.md.
EVENTS = ("l1_update", "l2_update", "l2_alloc_write", "write_aio", "cow_write", "refblock_alloc", "refblock_alloc_write", "refblock_alloc_hookup",
          "refblock_update_part", "cluster_alloc", "cluster_free", "flush_to_os", "flush_to_disk", "pwritev_rmw_tail", "pwritev_zero", "write_compressed")
EIO, ENOSPC = 5, 28


def by_event(rng):
    """Errors that come once each, after the n-th write."""
    last = rng.randrange(1, 40)
    states = [{"event": "write_aio", "state": state, "new_state": state + 1} for state in range(1, last)]
    errors = [{"event": rng.choice(EVENTS), "iotype": rng.choice(("write", "write", "write-zeroes", "flush")), "once": True,
               "errno": rng.choice((EIO, ENOSPC)), "state": rng.randrange(1, last + 1)} for _ in range(rng.randrange(1, 5))]
    return "image", {"driver": "blkdebug", "inject-error": errors, "set-state": states}


def by_chance(rng):
    """Some of many, then none."""
    rules = [{"operation": operation, "one-in": rng.choice((3, 20, 100)), "skip": rng.randrange(100), "count": rng.randrange(1, 30),
              "errno": rng.choice((EIO, ENOSPC))} for operation in rng.sample(("write", "write", "write-zeroes", "discard", "flush"), 2)]
    return "file", {"driver": "fault", "seed": rng.randrange(1 << 30), "rules": rules}


def delays(rng):
    rules = [{"operation": operation, "one-in": rng.choice((1, 5, 50)), "errno": 0, "latency-ns": rng.choice((200, 2000, 20000)) * 1000,
              "jitter-ns": 1000000} for operation in rng.sample(("read", "write", "write-zeroes", "discard", "flush"), 2)]
    return "file", {"driver": "fault", "seed": rng.randrange(1 << 30), "rules": rules}


class Fault:
    """`fails` if there may be errors, not delays alone."""

    def __init__(self, rng, fails=True):
        self.fails = fails
        self._child, self._options = rng.choice((by_event, by_chance))(rng) if fails else delays(rng)

    def above(self, file):
        """The file's node, with this above it."""
        return {**self._options, self._child: file}
