"""Disks that end within what is below them: within a unit of its requests, within a sector, within a cluster."""
import os
import unittest

import nbd
from bed import KiB, MiB, Bed, first_difference
from lab import processes

SECTOR = 512


class Ends(Bed):
    def setUp(self):
        super().setUp()
        self.raw("disk.raw", MiB)
        self.serve("disk.raw=disk")
        self.monitor = self.qmp()

    def add(self, name, driver, **options):
        self.monitor.execute("blockdev-add", driver=driver, node_name=name, **options)

    def export(self, node):
        self.monitor.execute("block-export-add", type="nbd", id=node, node_name=node, name=node, writable=True)
        return self.disk(node)

    def coarse(self, name, path, align):
        """A file whose requests are of units of `align`."""
        self.add(name, "blkdebug", image={"driver": "file", "filename": path}, align=align)

    def create(self, name, size, options):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, name, str(size))

    def served_by_others(self, *words):
        """An export of nbdkit, as the options of a node."""
        server = self.lab.start("nbdkit", "-f", "-U", self.path / "kit.sock", *words)
        self.addCleanup(self.lab.stop, server)
        self.addCleanup(self.lab.stop, self.daemon)         # before, or it waits for the daemon
        processes.wait_for_socket(self.path / "kit.sock", server)
        return {"type": "unix", "path": "kit.sock"}

    def last_sector(self, node, size):
        """Is written and read."""
        self.export(node).shutdown()
        disk = nbd.NBD()
        disk.set_request_block_size(False)                  # what it does not know of it does not keep to
        disk.connect_uri(f"nbd+unix:///{node}?socket={self.path / 'nbd.sock'}")
        for byte in (b"a", b"b"):
            disk.pwrite(byte * SECTOR, size - SECTOR)
            self.assertEqual(disk.pread(SECTOR, size - SECTOR), byte * SECTOR)
        disk.flush()
        disk.shutdown()

    def test_a_data_file_of_coarser_units(self):
        size = MiB + SECTOR
        for name, whole in (("fresh", False), ("written", True)):
            self.create(f"{name}.qcow2", size, f"data_file={name}.data")
            if whole:
                self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write {MiB} {SECTOR}", f"{name}.qcow2")
                os.truncate(self.path / f"{name}.data", size)
            self.coarse(f"{name}-data", f"{name}.data", 4096)
            self.add(name, "qcow2", file={"driver": "file", "filename": f"{name}.qcow2"}, data_file=f"{name}-data")
            self.last_sector(name, size)
            self.assertEqual(self.content(name), bytes(MiB) + b"b" * SECTOR)

    def test_clusters_smaller_than_units(self):
        for align, size in ((128 * KiB, 33280), (64 * KiB, 16 * KiB), (MiB, 33280)):
            name = f"small{align}"
            self.create(f"{name}.qcow2", size, "cluster_size=512")
            self.coarse(f"{name}-file", f"{name}.qcow2", align)
            self.add(name, "qcow2", file=f"{name}-file")
            self.last_sector(name, size)
            self.monitor.execute("block-export-del", id=name, mode="hard")
            self.until(lambda: all(export["id"] != name for export in self.monitor.execute("query-block-exports")), "the export is gone")
            self.monitor.execute("blockdev-del", node_name=name)
            self.monitor.execute("blockdev-del", node_name=f"{name}-file")
            self.lab.run("qemu-img", "check", "-q", f"{name}.qcow2")

    def test_what_a_shorter_export_has_no_place_for_is_refused(self):
        size = MiB - 24
        self.add("short", "nbd", server=self.served_by_others("memory", str(size)))
        with open(self.path / "disk.raw", "r+b") as file:
            file.seek(MiB - 4)
            file.write(b"tail")
        self.monitor.execute("blockdev-backup", device="disk", target="short", sync="full", job_id="b", auto_dismiss=False)
        self.assertIn("No space left", self.monitor.wait_job("b")["error"])
        disk = self.disk()
        disk.zero(4 * KiB, MiB - 4 * KiB)
        self.monitor.execute("blockdev-backup", device="disk", target="short", sync="full", job_id="z", auto_dismiss=False)
        self.assertNotIn("error", self.monitor.wait_job("z"))
        self.assertIsNone(first_difference(self.content("disk")[:size], self.read_all(self.export("short"), size)))

    @staticmethod
    def read_all(disk, size):
        return disk.pread(size // SECTOR * SECTOR, 0) + disk.pread(SECTOR, size // SECTOR * SECTOR)[:size % SECTOR]

    def test_a_size_within_a_sector_marks_that(self):
        self.raw("other.raw", MiB)
        self.add("other", "raw", file={"driver": "file", "filename": "other.raw"})
        self.monitor.execute("block-dirty-bitmap-add", node="other", name="b")
        self.monitor.execute("block_resize", node_name="other", size=MiB - 100)
        found = [bitmap for node in self.monitor.execute("query-named-block-nodes") for bitmap in node.get("dirty-bitmaps", ())]
        self.assertGreater(found[0]["count"], 0)

    def test_a_last_cluster_that_cannot_be_completed(self):
        self.create("cut.qcow2", MiB, "cluster_size=64k")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4096", "cut.qcow2")
        os.truncate(self.path / "cut.qcow2", os.path.getsize(self.path / "cut.qcow2") - 60 * KiB)
        self.lab.run("qemu-img", "check", "-q", "cut.qcow2")
        self.add("cut", "qcow2", file={"driver": "nbd", "server": self.served_by_others("file", "cut.qcow2")})
        disk = self.export("cut")
        with self.assertRaisesRegex(Exception, "No space left"):
            disk.pwrite(b"a" * 4 * KiB, 8 * KiB)
        disk.pwrite(b"b" * SECTOR, 0)                       # the rest goes on
        self.assertEqual(disk.pread(4 * KiB, 0), b"b" * SECTOR + b"\7" * (4 * KiB - SECTOR))


if __name__ == "__main__":
    unittest.main()
