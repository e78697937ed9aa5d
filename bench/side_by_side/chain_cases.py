"""Chain jobs: a stream and a commit of one layer, alone, and with a guest that writes to the disk meanwhile.

Each round begins with the same three images, copied from originals: a base, a layer that holds data in every other MiB, and
the disk.  What comes of it is compared with what the chain held before.  The layer is in the page cache, or on the device alone;
a bare copy of as much is what the device leaves to anybody then.
"""
import ctypes
import json
import os
import shutil
import subprocess
import time

from side_by_side.backup_cases import touch_memory
from side_by_side.measure import OURS, Bar, Case, rounds
from side_by_side.nbd_cases import QSD, GiB, MiB, settle

BARE = "bare copy"
CONTENDERS = [OURS, QSD]
RATE, DEPTH = 500, 32
JOBS = {                                         # what is written to is durable at the end, whoever sees to it
    "stream": ("block-stream", {"base-node": "base"}, "disk"),
    "commit": ("block-commit", {"top-node": "layer", "base-node": "base"}, "base"),
}


def bare_copy(source, target, step=8 * MiB):
    """Read and written a MiB at a time, on its way to the device all the while, and durable."""
    begin_writing = ctypes.CDLL(None).sync_file_range
    buffer = memoryview(bytearray(MiB))
    with open(source, "rb", buffering=0) as from_, open(target, "wb", buffering=0) as to:
        written = 0
        while length := from_.readinto(buffer):
            written += to.write(buffer[:length])
            if written % step < MiB:
                begin_writing(to.fileno(), ctypes.c_int64(0), ctypes.c_int64(0), 2)
        os.fsync(to.fileno())
    target.unlink()


class ChainCases:
    def __init__(self, bench):
        self.bench, self.lab, self.peers = bench, bench.lab, bench.peers
        self.rounds = min(5, bench.rounds)
        self.size = 256 * MiB if bench.quick else 2 * GiB
        self.files = {name: self.lab.path / f"{name}.qcow2" for name in ("base", "layer", "disk")}

    def run(self):
        self.make_originals()
        for what in JOBS:
            self.run_alone(what, "page cache")
            self.run_alone(what, "device")
            self.run_with_guest(what)

    def make_originals(self):
        below = []
        for name, path in self.files.items():
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *below, f"{path}.orig", str(self.size))
            shutil.copyfile(f"{path}.orig", path)          # for those above, which look at it
            below = ["-b", path, "-F", "qcow2"]
        writes = [word for at in range(0, self.size, 2 * MiB) for word in ("-c", f"write -q -P {at // MiB % 255 + 1} {at} 1M")]
        for at in range(0, len(writes), 512):
            self.lab.run("qemu-io", "-f", "qcow2", *writes[at:at + 512], f"{self.files['layer']}.orig")

    def copy_originals(self, cached=False):
        for path in self.files.values():
            shutil.copyfile(f"{path}.orig", path)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                if not cached:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def start(self, contender, cached=False):
        self.copy_originals(cached)
        return self.peers.start_chain(contender, self.files)

    def run_alone(self, what, where):
        speed = Case(f"{what} alone, layer in the {where}", "MiB/s").against(QSD, 1.5)
        cached, work = where == "page cache", self.lab.path / "work"

        def measure(contender):
            touch_memory(work, self.size)
            if contender == BARE:
                self.copy_originals(cached)
                begin = time.monotonic()
                bare_copy(self.files["layer"], work)
                speed.add(contender, self.size / 2 / MiB / (time.monotonic() - begin))
                return
            with self.start(contender, cached) as server:
                speed.add(contender, self.size / 2 / MiB / self.do(server, what))
            self.check()

        rounds(self.rounds, [*CONTENDERS, BARE], measure)
        self.bench.report(speed)

    def run_with_guest(self, what):
        slower = Bar(f"{what}, {RATE} writes/s: p99 ÷ idle", "", most=2)
        idle_p99, p99 = Case("p99 idle", "ms", time=True), Case("p99 meanwhile", "ms", time=True)
        seconds = 2 if self.bench.quick else 8

        def measure(contender):
            with self.start(contender) as server:
                idle = self.end_of(self.start_guest(server, seconds / 2))
                guest = self.start_guest(server, seconds)
                self.do(server, what, speed=self.size // 2 // seconds)
                done = self.end_of(guest)
            slower.add(contender, done["p99-us"] / idle["p99-us"])
            idle_p99.add(contender, idle["p99-us"] / 1000)
            p99.add(contender, done["p99-us"] / 1000)

        rounds(min(3, self.rounds), CONTENDERS, measure)
        for case in (slower, idle_p99, p99):
            self.bench.report(case)

    def do(self, server, what, **limits):
        command, arguments, written = JOBS[what]
        with server.qmp() as qmp:
            begin = time.monotonic()
            qmp.execute(command, device="disk", **{"job-id": "job", "auto-dismiss": False}, **arguments, **limits)
            error = qmp.wait_job("job").get("error")
            if error:
                raise RuntimeError(f"{server.name}: the {what} failed: {error}")
            settle(self.files[written])
            return time.monotonic() - begin

    def check(self):
        """The disk as qemu-img sees it now, and as the originals' chain holds it."""
        self.lab.run("qemu-img", "check", "-q", "-f", "qcow2", self.files["disk"])
        now = self.lab.path / "now.raw"
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.files["disk"], now)
        with open(now, "rb") as file:
            for at in range(0, self.size, 2 * MiB):
                file.seek(at)
                if file.read(4096) != bytes([at // MiB % 255 + 1]) * 4096:
                    raise RuntimeError(f"the disk has changed at {at}")
        now.unlink()

    def start_guest(self, server, seconds):
        words = (self.peers.load, server.socket, "disk", "randwrite", 4096, DEPTH, seconds, 0, RATE)
        return self.lab.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end_of(self, guest):
        out, err = guest.communicate(timeout=180)
        if self.lab.ended(guest) != 0:
            raise RuntimeError(f"the guest: {err.strip()}")
        return json.loads(out)
