#!/usr/bin/python3
"""Random legal operations on disks in use, with everything that they show, keep and leave behind held against a model.

  stress_test.py [--seed N] [--seeds N] [--seconds N] [--build DIR] [--patience N] [--favour PATTERN] [--keep]

Each seed is a daemon with several disks, raw and qcow2, on threads of their own or not, each with a guest that writes, zeroes, discards,
reads and flushes without pause, while operations of operations.OPERATIONS come one after another and their jobs run side by side; now
and then the daemon ends or is killed (kill -9), and comes again.  Nothing here decides what a timing leads to: the same seed
makes the same choices from the same situations, which is mostly the same run.

A seed that fails prints what was wrong, the command that runs it again, and where its log and QMP conversation are.
"""
import argparse
import collections
import os
import pathlib
import re
import sys
import time
import traceback

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent.parent / "tools")]
from clock import Clock
from lab import processes
from lab.qmp import QmpError
from operations import OPERATIONS
from world import World

SEED, SEEDS, SECONDS = 1, 3, 10


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", default=SEED, type=int, help="the first")
    parser.add_argument("--seeds", default=SEEDS, type=int, help="how many; 0 for no end")
    parser.add_argument("--seconds", default=SECONDS, type=float, help="of each")
    parser.add_argument("--build", default=os.environ.get("TIDEMARK_BUILD"))
    parser.add_argument("--patience", default=20, type=float, help="seconds that an answer may take, to a guest or an operator")
    parser.add_argument("--favour", type=re.compile, help="operations to be done eight times as often: those whose name it matches")
    parser.add_argument("--keep", action="store_true", help="leave the files of all seeds, not only of those that fail")
    return parser.parse_args()


class Run:
    """One seed."""

    def __init__(self, world, seconds, counts, favour=None):
        self.world, self.counts = world, counts
        self.weights = {operation.name: operation.weight * (8 if favour and favour.search(operation.name) else 1) for operation in OPERATIONS}
        self.end = time.monotonic() + seconds
        self.next_rest = 0

    def live(self):
        world, rng = self.world, self.world.rng
        world.set_up()
        self.choose_rest()
        while time.monotonic() < self.end:
            self.step()
            self.next_rest -= 1
            if self.next_rest <= 0:
                world.note("== rest")
                world.rest()
                self.choose_rest()
                world.go_on()
            time.sleep(rng.choice((0, 0, 0.01, 0.05)))
        world.rest()
        world.stop(by_signal=False)

    def choose_rest(self):
        self.next_rest = self.world.rng.randrange(20, 60)

    def step(self):
        world, rng = self.world, self.world.rng
        world.tend_jobs()
        world.check_alive()
        choices = [(operation, [disk for disk in world.disks if operation.when(world, disk)] if operation.per_disk else [None])
                   for operation in OPERATIONS if operation.per_disk or operation.when(world, None)]
        choices = [(operation, disks) for operation, disks in choices if disks]
        operation, disks = rng.choices(choices, [self.weights[operation.name] for operation, _ in choices])[0]
        disk = rng.choice(disks)
        world.note(f"== {operation.name}{f' of {disk.name}' if disk else ''}")
        try:
            operation.do(world, disk)
            self.counts[operation.name, "done"] += 1
        except QmpError as error:
            if not operation.may_refuse(disk, error.desc):
                raise
            world.note(f"== refused: {error.desc}")
            self.counts[operation.name, "refused"] += 1
        world.sweep()
        world.check_graph()


def run(seed, given, counts):
    """Whether it went well."""
    program = processes.programs(given.build)[1]
    clock = Clock()
    with processes.Lab(f"stress-{seed}", keep=given.keep) as lab:
        world = World(lab, program, seed, clock, given.patience)
        begun = time.monotonic()
        try:
            Run(world, given.seconds, counts, given.favour).live()
        except Exception as error:
            lab.keep = True
            world.note(f"== FAILED: {error}")
            print(traceback.format_exc())
            print(f"seed {seed} FAILED: {type(error).__name__}: {error}\n  again: {' '.join(again(seed, given))}\n"
                  f"  files: {lab.path} (transcript.log, daemon.log)", flush=True)
            return False
        finally:
            world.close()
            clock.stop()
        slowest, command = world.daemon.slowest
        print(f"seed {seed}: {time.monotonic() - begun:.0f} s, {world.requests} requests of guests, the slowest {world.slowest_request:.2f} s; "
              f"the slowest answer {slowest:.2f} s ({command})", flush=True)
        return True


def again(seed, given):
    build = [f"--build={given.build}"] if given.build else []
    if given.favour:
        build.append(f"--favour={given.favour.pattern}")
    return [str(pathlib.Path(__file__).resolve()), f"--seed={seed}", "--seeds=1", f"--seconds={given.seconds:g}",
            f"--patience={given.patience:g}", *build]


def main():
    given, counts = arguments(), collections.Counter()
    seed, failed = given.seed, []
    try:
        while not given.seeds or seed < given.seed + given.seeds:
            if not run(seed, given, counts):
                failed.append(seed)
            seed += 1
    except KeyboardInterrupt:
        pass
    names = [operation.name for operation in OPERATIONS]
    print("operations done (refused): " + ", ".join(
        f"{name} {counts[name, 'done']}" + (f" ({counts[name, 'refused']})" if counts[name, "refused"] else "") for name in names), flush=True)
    print(f"{seed - given.seed} seeds, failed: {failed or 'none'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
