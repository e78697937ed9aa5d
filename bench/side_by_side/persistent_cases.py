"""What persistent bitmaps cost a guest, against the same disk without any; what a crash leaves suspected; start-up."""
import contextlib
import json
import os
import signal
import statistics
import subprocess
import time

from lab import processes
from side_by_side.measure import OURS, Case, number, rounds
from side_by_side.nbd_cases import fill
from side_by_side.peers import Server, daemon_options

TiB, MiB, GRANULE, DEPTH, BLOCK = 1 << 40, 1 << 20, 65536, 32, 4096
NONE = "no bitmap"


class Load:
    """nbd_load on one connection, taking its turns when it is told to."""

    def __init__(self, lab, program, server, mode):
        self.lab = lab
        self.process = lab.start(program, server.socket, "disk", mode, BLOCK, DEPTH, "-", text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def turn(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise processes.Failure("nbd_load ended")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.lab.stop(self.process)
        self.process.stdout.close()


class PersistentCases:
    def __init__(self, bench):
        self.bench, self.lab, self.peers = bench, bench.lab, bench.peers
        self.disks = 0

    def start(self, name, disk, budget=0):
        """Where the store is has to be said, so that the daemon without bitmaps does not find it."""
        tracking = {"store": f"{disk}.store", "suspect-budget": budget}
        file = {"driver": "file", "filename": str(disk), "locking": "off", "cache": {"direct": True}}
        node = {"driver": "raw", "node-name": "disk", "file": file, **({"tracking": tracking} if name == OURS else {})}
        return Server(self.lab, name, lambda nbd, qmp: (self.peers.tidemarkd, *daemon_options(node, nbd, qmp)), monitor=True)

    @staticmethod
    def add_bitmap(server, name="since"):
        with server.qmp() as qmp:
            qmp.execute("block-dirty-bitmap-add", node="disk", name=name, persistent=True, granularity=GRANULE)

    @staticmethod
    def bitmap(server):
        with server.qmp() as qmp:
            nodes = qmp.execute("query-named-block-nodes")
        return next(bitmap for node in nodes if node["node-name"] == "disk" for bitmap in node["dirty-bitmaps"])

    def disk(self, name):
        """Files are removed at the end only: what is given back the file system may discard, and that takes long."""
        self.disks += 1
        return self.lab.path / f"{name}-{self.disks}.raw"

    def sparse(self, size=TiB):
        disk = self.disk("sparse")
        with open(disk, "wb") as file:
            file.truncate(size)
        return disk

    def allocated(self):
        disk = self.disk("allocated")
        fill(disk, self.bench.file_size)
        return disk

    def run(self):
        self.pair("random, granules already marked", "randwrite", self.allocated, 0.98, marked=True)
        self.pair("random fresh, sparse 1 TiB", "randwrite", self.sparse, 0.7)
        self.pair("zipf, budget 10 %, allocated file", "zipfwrite", self.allocated, 0.95, budget=10)
        self.pair("zipf, budget 10 %, sparse 1 TiB", "zipfwrite", self.sparse, 0.95, budget=10)
        self.pair("sequential, allocated file", "write", self.allocated, 0.98)
        self.pair("sequential, sparse 1 TiB", "write", self.sparse, 0.98)
        for dirty in (1000, 20000):
            self.opening(dirty)

    def pair(self, label, mode, prepare, least, budget=0, marked=False):
        """Two daemons, each with a disk of its own, take turns of a fraction of a second, so that what else goes on falls
        on both; then one is killed."""
        rate = Case(label, "/s").against(NONE, least)
        waits = Case(f"{label}: p99", "µs", time=True)
        disks = {name: prepare() for name in (OURS, NONE)}
        os.sync()
        with contextlib.ExitStack() as stack:
            servers = {name: stack.enter_context(self.start(name, disk, budget)) for name, disk in disks.items()}
            self.add_bitmap(servers[OURS])
            if marked:
                self.mark(servers[OURS])
            loads = {name: stack.enter_context(Load(self.lab, self.peers.load, servers[name], mode)) for name in servers}
            touched = 0

            def measure(name):
                nonlocal touched
                processor = servers[name].processor_seconds()
                done = loads[name].turn(self.bench.seconds / 2)
                processor = servers[name].processor_seconds() - processor
                rate.add(name, done["per-second"], processor * 1e6 / done["operations"])
                waits.add(name, done["p99-us"])
                if name == OURS:
                    touched = done["granules"]

            rounds(2 * self.bench.rounds, servers, measure)
            self.lab.stop(servers[OURS].process, signal.SIGKILL)
        self.bench.report(rate)
        self.bench.report(waits)
        if not marked:
            self.suspicion(disks[OURS], touched, 1.5 if budget == 0 else None)

    def mark(self, server):
        """All of the disk."""
        words = (self.peers.load, server.socket, "disk", "write", GRANULE, DEPTH)
        while self.bitmap(server)["count"] < self.bench.file_size:
            self.lab.run(*words, 1)

    def suspicion(self, disk, touched, most):
        """What the killed daemon's bitmap says after reopening, in shares of the granules that were touched."""
        with self.start(OURS, disk) as server:
            bitmap = self.bitmap(server)
        if bitmap["count"] < touched * GRANULE:
            raise processes.Failure(f"{touched} granules were written and only {bitmap['count'] // GRANULE} are dirty")
        self.judge("after kill -9: suspected ÷ touched", bitmap.get("suspected", 0) / GRANULE / touched, most)
        self.judge("after kill -9: dirty ÷ touched", bitmap["count"] / GRANULE / touched, most)

    def judge(self, label, value, most, unit=""):
        met = most is None or value <= most
        goal = "" if most is None else f"≤ {most} {'yes' if met else '**no**'}"
        self.bench.say(f"| {label} | {unit} | {number(value)} | | | | {goal} |")
        if not met:
            self.bench.missed.append(f"{label}: {number(value)} of {most}")

    def opening(self, dirty):
        """Eight bitmaps on 16 TiB, with so many dirty granules strewn over it; against the same without bitmaps."""
        disk = self.sparse(16 * TiB - MiB)                # the most that ext4 takes
        alone = statistics.median(self.ready(NONE, disk) for _ in range(3))
        with self.start(OURS, disk) as server:
            for n in range(8):
                self.add_bitmap(server, f"since{n}")
            empty = server.memory()
            with Load(self.lab, self.peers.load, server, "randwrite") as load:
                while (touched := load.turn(0.1)["granules"]) < dirty:
                    pass
            grown = server.memory() - empty
            self.lab.stop(server.process, signal.SIGKILL)
        label = f"eight bitmaps, 16 TiB, {touched} dirty granules strewn"
        self.judge(f"{label}: opened after kill -9", self.ready(OURS, disk) - alone, 200, "ms")
        self.judge(f"{label}: opened after a clean stop", statistics.median(self.ready(OURS, disk) for _ in range(3)) - alone, 50,
                   "ms")
        self.judge(f"{label}: memory they took", grown / MiB, None, "MiB")

    def ready(self, name, disk):
        """Milliseconds from the daemon's start until it serves the disk."""
        begin = time.monotonic()
        with self.start(name, disk):
            return (time.monotonic() - begin) * 1000
