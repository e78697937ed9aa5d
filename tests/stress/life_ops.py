"""Ends and beginnings of the daemon."""
from operation import Operation, always


def restart(world, _disk):
    world.stop(by_signal=world.rng.random() < 0.5)
    world.start()


def kill(world, _disk):
    world.crash()
    world.start()


OPERATIONS = [
    Operation("restart", 1.5, always, restart, per_disk=False),
    Operation("kill", 2.5, always, kill, per_disk=False),
]
