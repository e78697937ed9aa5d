"""Mirrors against QEMU's job: seconds until the target is equal and durable, and what a guest feels meanwhile."""
import contextlib
import os
import time

from side_by_side.backup_cases import BackupCases, touch_memory
from side_by_side.guest_cases import RATE, GuestCases
from side_by_side.measure import OURS, Bar, Case, rounds
from side_by_side.nbd_cases import QSD, MiB, fill, settle

CONTENDERS = [OURS, QSD]


class MirrorCases(GuestCases):
    def run_copy(self):
        source = self.lab.path / "disk.raw"
        fill(source, self.bench.file_size)
        for format in ("raw", "qcow2"):
            self.copy_to(source, self.lab.path / f"target.{format}", format)

    def copy_to(self, source, target, format):
        """From the start to the pivot, and until that is on the disk."""
        case = Case(f"mirror raw to {format}, pivot, durable", "s", time=True).against(QSD, 1.5)

        def measure(contender):
            touch_memory(target, source.stat().st_size)
            self.lab.run("qemu-img", "create", "-q", "-f", format, target, source.stat().st_size)
            with self.peers.start(contender, source) as server, server.qmp() as qmp:
                BackupCases.add_target(qmp, target, format)
                begin = time.monotonic()
                self.begin(qmp)
                self.pivot(qmp)
                settle(target)
                case.add(contender, time.monotonic() - begin)

        rounds(self.bench.rounds, CONTENDERS, measure)
        target.unlink()
        self.bench.report(case)

    @staticmethod
    def begin(qmp, **options):
        qmp.execute("blockdev-mirror", job_id="job", device="disk", target="target", sync="full", auto_dismiss=False, **options)

    @staticmethod
    def pivot(qmp):
        qmp.wait_event("BLOCK_JOB_READY", device="job")
        qmp.execute("job-complete", id="job")
        error = qmp.wait_job("job").get("error")
        if error:
            raise RuntimeError(f"the mirror failed: {error}")

    def run_guest(self):
        """Writes that are due at fixed times, while the mirror copies and when it is ready."""
        seconds = 3 if self.bench.quick else 10
        slower = Bar(f"{RATE} writes/s, mirror meanwhile: p99 ÷ idle", "", most=2)
        share = Bar(f"{RATE} writes/s, mirror meanwhile: share done", "", least=0.99)
        idle_p99, p99 = Case("p99 idle", "ms", time=True), Case("p99 meanwhile", "ms", time=True)

        def measure(contender):
            with self.server(contender, (128 if self.bench.quick else 1024) * MiB) as server:
                idle = self.end_of(self.start_guest(server, seconds / 2, RATE))
                with self.target(server) as qmp:
                    guest = self.start_guest(server, seconds, RATE)
                    self.begin(qmp)
                    done = self.end_of(guest)
                    self.pivot(qmp)
            slower.add(contender, done["p99-us"] / idle["p99-us"])
            share.add(contender, done["share"])
            idle_p99.add(contender, idle["p99-us"] / 1000)
            p99.add(contender, done["p99-us"] / 1000)

        rounds(self.rounds, CONTENDERS, measure)
        for case in (slower, share, idle_p99, p99):
            self.bench.report(case)

    @contextlib.contextmanager
    def target(self, server):
        copy = self.lab.path / "copy.raw"
        copy.unlink(missing_ok=True)
        with open(copy, "wb") as file:
            file.truncate(self.disk.stat().st_size)
        os.sync()
        with server.qmp() as qmp:
            qmp.execute("blockdev-add", driver="raw", node_name="target",
                        file={"driver": "file", "filename": str(copy)}, cache={"direct": True})
            yield qmp
        copy.unlink()
