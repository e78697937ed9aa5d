"""Full backups against QEMU's job and cp, and incremental backups whose cost has to follow the change."""
import os
import time

import nbd

from side_by_side.measure import OURS, Case, rounds
from side_by_side.nbd_cases import QSD, GiB, MiB, fill, settle

TiB, CLUSTER = 1 << 40, 65536


def touch_memory(path, size):
    """Pages that the host of a virtual machine has taken back cost whoever touches them first: nobody measured, then."""
    block = bytes(MiB)
    with open(path, "wb") as file:
        for _ in range(size // MiB):
            file.write(block)
    path.unlink()
    os.sync()


class BackupCases:
    def __init__(self, bench):
        self.bench, self.lab, self.peers = bench, bench.lab, bench.peers

    def run_full(self):
        for place in ("ext4", "shm"):
            folder = self.bench.shm if place == "shm" else self.lab.path
            source = folder / "disk.raw"
            fill(source, self.bench.file_size)
            for format in ("raw", "qcow2"):
                self.full(source, folder / f"target.{format}", format, place)

    def full(self, source, target, format, place):
        """Seconds until the copy is durable: ours flushes as part of the job, the others are synced after."""
        case = Case(f"full backup raw to {format}, {place}, durable", "s", time=True)
        case.against(QSD, 1.5).against("cp", 0.6)

        def measure(contender):
            touch_memory(target, source.stat().st_size)
            if contender == "cp":
                begin = time.monotonic()
                self.lab.run("cp", "--sparse=never", source, target)
                settle(target)
                case.add(contender, time.monotonic() - begin)
                return
            self.lab.run("qemu-img", "create", "-q", "-f", format, target, source.stat().st_size)
            with self.peers.start(contender, source) as server, server.qmp() as qmp:
                self.add_target(qmp, target, format)
                begin = time.monotonic()
                self.job(qmp, sync="full")
                settle(target)
                case.add(contender, time.monotonic() - begin)

        rounds(self.bench.rounds, [OURS, QSD, "cp"], measure)
        target.unlink()
        self.bench.report(case)

    @staticmethod
    def add_target(qmp, target, format):
        qmp.execute("blockdev-add", driver=format, node_name="target", file={"driver": "file", "filename": str(target)})

    @staticmethod
    def job(qmp, **options):
        qmp.execute("blockdev-backup", job_id="job", device="disk", target="target", auto_dismiss=False, **options)
        error = qmp.wait_job("job").get("error")
        if error:
            raise RuntimeError(f"the backup failed: {error}")

    def run_incremental(self):
        """Disk and change, then each doubled.  ext4's files end just below 16 TiB, so the disk is doubled to that."""
        largest = 16 * TiB - MiB
        change = GiB if not self.bench.quick else 64 * MiB
        for name, size, changed in (("half the disk", largest // 2, change), ("16 TiB", largest, change),
                                    ("16 TiB, twice the change", largest, 2 * change)):
            label = f"{changed // MiB} MiB changed, {name}"
            seconds, memory = Case(label, "s", time=True), Case(label, "peak MiB", time=True)

            def measure(contender):
                took, peak = self.incremental(contender, size, changed)
                seconds.add(contender, took)
                memory.add(contender, peak / MiB)

            rounds(min(3, self.bench.rounds), [OURS, QSD], measure)
            self.bench.report(seconds)
            self.bench.report(memory)

    def incremental(self, contender, size, changed):
        """Seconds until an incremental backup is durable, and the most memory the daemon held."""
        source, target = self.lab.path / "huge.raw", self.lab.path / "huge.qcow2"
        for path in (source, target):
            path.unlink(missing_ok=True)
        with open(source, "wb") as file:
            file.truncate(size)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", target, size)
        with self.peers.start(contender, source) as server, server.qmp() as qmp:
            qmp.execute("block-dirty-bitmap-add", node="disk", name="since", granularity=CLUSTER)
            self.change(server, size, changed)
            self.add_target(qmp, target, "qcow2")
            begin = time.monotonic()
            self.job(qmp, sync="incremental", bitmap="since")
            settle(target)
            result = time.monotonic() - begin, server.peak_memory()
        for path in (source, target):
            path.unlink()
        return result

    def change(self, server, size, changed):
        """Writes `changed` bytes in clusters strewn evenly over the disk."""
        disk = nbd.NBD()
        disk.connect_uri(server.uri())
        count = changed // CLUSTER
        step = size // count // CLUSTER * CLUSTER
        cluster = os.urandom(CLUSTER)
        for n in range(count):
            while disk.aio_in_flight() >= 16:
                disk.poll(-1)
            disk.aio_pwrite(cluster, n * step, lambda _error: 1)
        while disk.aio_in_flight():
            disk.poll(-1)
        disk.flush()
        disk.shutdown()
