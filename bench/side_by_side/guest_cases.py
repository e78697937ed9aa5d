"""What a guest feels of a full backup to a target that is slow, that hangs, or that is as fast as the disk.

The backup begins in a transaction before the guest writes, so its point is the disk as it was copied aside just
before; every target is compared with that copy.  The guest is nbd_load, with direct I/O below it.
"""
import contextlib
import json
import os
import signal
import subprocess
import time

from lab import processes
from side_by_side.backup_cases import touch_memory
from side_by_side.measure import OURS, Bar, Case, rounds
from side_by_side.nbd_cases import QSD, GiB, MiB, fill
from side_by_side.peers import Server

CONTENDERS = [OURS, QSD]
RATE, DEPTH = 500, 32
TARGET_BITS = 20_000_000 * 8


class GuestCases:
    def __init__(self, bench):
        self.bench, self.lab, self.peers = bench, bench.lab, bench.peers
        self.rounds = min(3, bench.rounds)
        self.disk = self.lab.path / "guest.raw"
        self.point, self.copy = self.bench.shm / "point.raw", self.bench.shm / "copy.raw"

    def run_slow(self):
        seconds = 3 if self.bench.quick else 10
        self.scheduled(f"{RATE} writes/s, target takes 20 MB/s", self.rounds, seconds)

    def run_hung(self):
        hang = 4 if self.bench.quick else 30
        self.scheduled(f"{RATE} writes/s, target stops for {hang} s", 1, hang + 1, hang)

    def scheduled(self, label, count, seconds, hang=0):
        """Writes that are due at fixed times, for part of a backup that takes longer."""
        share = Bar(f"{label}: share done", "", least=0.99)
        slower = Bar(f"{label}: p99 ÷ idle", "", most=2)
        idle_p99, p99 = Case("p99 idle", "ms", time=True), Case("p99 meanwhile", "ms", time=True)

        def measure(contender):
            with self.server(contender, (128 if self.bench.quick else 320) * MiB) as server:
                idle = self.end_of(self.start_guest(server, seconds / 2, RATE))
                with self.backup(server, f"rate={TARGET_BITS}") as (qmp, target):
                    guest = self.start_guest(server, seconds, RATE)
                    if hang:
                        self.stop_for(target.process, hang)
                    done = self.end_of(guest)
                    job, = qmp.execute("query-jobs")
                    if job["status"] != "running":
                        raise RuntimeError(f"{contender}: the backup is not running when the guest is done: {job}")
            share.add(contender, done["share"])
            slower.add(contender, done["p99-us"] / idle["p99-us"])
            idle_p99.add(contender, idle["p99-us"] / 1000)
            p99.add(contender, done["p99-us"] / 1000)

        rounds(count, CONTENDERS, measure)
        for case in (share, slower, idle_p99, p99):
            self.bench.report(case)

    @staticmethod
    def stop_for(process, seconds):
        time.sleep(0.5)
        processes.halt(process)
        try:
            time.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    def run_fast(self):
        """Writes as fast as they go, from the beginning of the backup to its end."""
        kept = Bar(f"random writes, depth {DEPTH}: share of the idle rate", "", least=0.7)
        backup_kept = Bar("backup meanwhile: share of its idle rate", "", least=0.3)
        rate = Case(f"random writes, depth {DEPTH}, meanwhile", "/s")
        speed = Case("backup meanwhile", "MiB/s")

        def measure(contender):
            size = 256 * MiB if self.bench.quick else 2 * GiB
            with self.server(contender, size) as server:
                idle = self.end_of(self.start_guest(server, 3 * self.bench.seconds))["per-second"]
                alone, _ = self.unthrottled(server)
                together, guest = self.unthrottled(server, guest=True)
            kept.add(contender, guest["per-second"] / idle)
            backup_kept.add(contender, alone / together)
            rate.add(contender, guest["per-second"])
            speed.add(contender, size / MiB / together)

        rounds(self.rounds, CONTENDERS, measure)
        for case in (kept, backup_kept, rate, speed):
            self.bench.report(case)

    def unthrottled(self, server, guest=False):
        """Seconds that a backup to a fast target takes, and what the guest did meanwhile."""
        with self.backup(server) as (qmp, _):
            begin = time.monotonic()
            load = self.start_guest(server, 120) if guest else None
            qmp.wait_event("JOB_STATUS_CHANGE", id="job", status="concluded")
            seconds = time.monotonic() - begin
            if load:
                load.send_signal(signal.SIGTERM)
            return seconds, self.end_of(load) if load else None

    # What these are made of

    def server(self, contender, size):
        fill(self.disk, size)
        with open(self.disk, "rb") as file:      # direct writes below cached pages would have to drop them
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.sync()                                # what others have yet to write would be in the way
        return self.peers.start(contender, self.disk, direct=True)

    def start_guest(self, server, seconds, rate=0):
        words = (self.peers.load, server.socket, "disk", "randwrite", 4096, DEPTH, seconds, 0, rate)
        return self.lab.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end_of(self, guest):
        out, err = guest.communicate(timeout=180)
        if self.lab.ended(guest) != 0:
            raise RuntimeError(f"the guest: {err.strip()}")
        return json.loads(out)

    @contextlib.contextmanager
    def backup(self, server, *throttle):
        """A full backup that has begun; it has ended and is its point when the block is left."""
        for path in (self.point, self.copy):
            path.unlink(missing_ok=True)
        self.lab.run("dd", "iflag=direct", "bs=1M", "status=none", f"if={self.disk}", f"of={self.point}")
        touch_memory(self.copy, self.disk.stat().st_size)
        with open(self.copy, "wb") as file:
            file.truncate(self.disk.stat().st_size)
        filters = ("--filter=rate",) if throttle else ()
        words = lambda nbd, _: ("nbdkit", "-f", "-U", nbd, *filters, "file", f"file={self.copy}", *throttle)
        with Server(self.lab, "target", words) as target, server.qmp() as qmp:
            qmp.execute("blockdev-add", driver="nbd", node_name="target",
                        server={"type": "unix", "path": str(target.socket)})
            job = {"job-id": "job", "device": "disk", "target": "target", "sync": "full", "auto-dismiss": False}
            qmp.execute("transaction", actions=[{"type": "blockdev-backup", "data": job}])
            yield qmp, target
            error = qmp.wait_job("job").get("error")
            if error:
                raise RuntimeError(f"{server.name}: the backup failed: {error}")
            qmp.execute("blockdev-del", node_name="target")
        self.lab.run("cmp", self.point, self.copy)
