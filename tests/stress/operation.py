"""What an operation is: a name, when it is legal, what it does.  operations.py has the lists of all there are."""
import dataclasses
import re

# What a disk in use may answer; else nothing may be refused.
BUSY = re.compile(r"busy|in use|is used|already (has|used)|Conflict|Op blocked|cannot move|Cannot change|pending|in state|cannot accept command verb|"
                  r"block device is in use|while|has a job|another job|Need a root block node", re.I)
# What a disk with errors on purpose may answer.
FAILED = re.compile(r"Input/output error|No space left on device")


@dataclasses.dataclass(frozen=True)
class Operation:
    """`do(world, disk)` when `when(world, disk)`; those that are not about a disk get None.

    What it needs is in its hands: it makes its choices by world.rng, tells the daemon, and keeps the world true to it.
    A refusal must change nothing; it is allowed when the disk has jobs and says so, or when `refused` matches it.
    """
    name: str
    weight: float
    when: object
    do: object
    per_disk: bool = True
    refused: str | None = None

    def may_refuse(self, disk, why):
        if self.refused and re.search(self.refused, why):
            return True
        if disk and disk.model.may_fail and FAILED.search(why):
            return True
        return bool(disk and disk.jobs and BUSY.search(why))


def always(_world, _disk):
    return True


def idle(_world, disk):
    """No job at all."""
    return not disk.jobs


def chain_is_still(_world, disk):
    return not any(job.changes_chain for job in disk.jobs)


def few_jobs(world, disk):
    return len(disk.jobs) < 2 and len(world.jobs) < 5
