"""Disks on block devices that become larger or smaller, or are used by others, while they are in use."""
import mmap
import os
import unittest

import nbd
from bed import DONE, MiB, Bed
from lab import processes
from lab.qmp import QmpError

SIZE = 32 * MiB


class DeviceDisk(Bed):
    def setUp(self):
        super().setUp()
        (self.path / "disk.img").write_bytes(b"D" * SIZE)
        self.device = self.loop_device("disk.img")
        self.daemon = self.lab.start(
            self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "chardev=c",
            "--nbd-server", "addr.type=unix,addr.path=nbd.sock")
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()

    def add(self, **options):
        """The disk 'disk' on the device."""
        self.client.execute("blockdev-add", driver="host_device", node_name="device", filename=self.device)
        self.client.execute("blockdev-add", node_name="disk", file="device", **options)

    def guest(self):
        self.client.execute("block-export-add", id="disk", type="nbd", node_name="disk", name="disk", writable=True)
        return self.disk()

    def make(self, size):
        """The device as large as that; what is new was another's."""
        with open(self.path / "disk.img", "r+b") as image:
            image.truncate(size)
            if size > SIZE:
                image.seek(SIZE)
                image.write(b"J" * (size - SIZE))
        self.lab.run("losetup", "-c", self.device)

    def resize(self, size, node="disk"):
        self.client.execute("block_resize", node_name=node, size=size)
        return next(n for n in self.client.execute("query-named-block-nodes") if n["node-name"] == node)["image"]["virtual-size"]

    def stop(self):
        self.assertEqual(self.lab.stop(self.daemon), DONE)

    def test_a_disk_is_as_large_as_its_device_by_now(self):
        self.add(driver="raw")
        self.assertEqual(self.resize(SIZE), SIZE)
        self.assertEqual(self.resize(SIZE // 2), SIZE)
        with self.assertRaisesRegex(QmpError, "Cannot grow device files"):
            self.resize(SIZE + 512)
        self.make(2 * SIZE)
        with self.assertRaisesRegex(QmpError, "Cannot grow device files"):
            self.resize(2 * SIZE + 512)
        self.assertEqual(self.resize(SIZE + MiB), 2 * SIZE)
        guest = self.guest()
        self.assertEqual(guest.pread(MiB, 2 * SIZE - MiB), b"J" * MiB)
        guest.pwrite(b"guest" * 1024, 2 * SIZE - 5120)
        guest.flush()
        guest.shutdown()
        self.client.execute("block-export-del", id="disk")
        self.until(lambda: not self.client.execute("query-block-exports"), "the export is gone")
        self.make(SIZE)
        self.assertEqual(self.resize(SIZE), SIZE)
        self.stop()

    def test_a_window_onto_a_device(self):
        self.add(driver="raw", offset=MiB)
        self.make(2 * SIZE)
        with self.assertRaisesRegex(QmpError, "Cannot grow device files"):
            self.resize(2 * SIZE)
        self.assertEqual(self.resize(SIZE), 2 * SIZE - MiB)
        self.client.execute("blockdev-add", driver="raw", node_name="fixed", size=MiB, file="device")
        with self.assertRaisesRegex(QmpError, "Cannot resize fixed-size raw disks"):
            self.resize(SIZE, "fixed")
        self.stop()

    def test_an_image_goes_on_where_its_device_has_grown(self):
        """What was there before it is not in the disk."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", self.device, "256M")
        self.add(driver="qcow2")
        guest, at = self.guest(), 0
        with self.assertRaisesRegex(nbd.Error, "No space left"):
            while True:
                guest.pwrite(b"B" * MiB, at)
                at += MiB
        at += MiB                                      # a part of the last may be there
        self.make(3 * SIZE)
        for n in range(512):
            guest.pwrite(b"C" * 4096, at + n * 128 * 1024)
        for n in range(512):
            expected = b"C" * 4096 + bytes(124 * 1024)
            self.assertTrue(guest.pread(128 * 1024, at + n * 128 * 1024) == expected, n)
        guest.shutdown()
        self.stop()
        self.lab.run("qemu-img", "check", "-q", self.device)
        self.lab.run("qemu-io", "-f", "qcow2", "-c", f"read -P 67 {at} 4096", "-c", f"read -P 0 {at + 4096} 65536", self.device)

    def test_a_raw_data_file_that_is_longer_than_the_disk(self):
        """Shows what the disk shows where that has grown."""
        for data, device in (self.device, True), ("data.img", False):
            with self.subTest(data=data):
                self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", "a.qcow2", str(SIZE // 2))
                (self.path / ("disk.img" if device else data)).write_bytes(b"J" * SIZE)
                self.client.execute("blockdev-add", driver="host_device" if device else "file", node_name="data", filename=data)
                self.client.execute("blockdev-add", driver="qcow2", node_name="disk", data_file="data",
                                    file={"driver": "file", "filename": "a.qcow2"})
                self.assertEqual(self.resize(SIZE - 2 * MiB), SIZE - 2 * MiB)
                with open(self.path / data, "rb") as content:      # behind the disk it is as it was
                    self.assertTrue(content.read() == b"J" * (SIZE // 2) + bytes(SIZE // 2 - 2 * MiB) + b"J" * 2 * MiB)
                self.assertEqual(self.resize(SIZE), SIZE)
                guest = self.guest()
                self.assertEqual(guest.pread(MiB, SIZE // 2 - MiB), b"J" * MiB)
                self.assertEqual(guest.pread(MiB, SIZE // 2), bytes(MiB))
                guest.shutdown()
                self.client.execute("block-export-del", id="disk")
                self.until(lambda: not self.client.execute("query-block-exports"), "the export is gone")
                for node in "disk", "data":
                    self.client.execute("blockdev-del", node_name=node)
                with open(self.path / data, "rb") as content:
                    self.assertTrue(content.read() == b"J" * (SIZE // 2) + bytes(SIZE // 2))
        self.stop()

    def test_bitmaps_know_what_the_device_has_grown_by(self):
        self.add(driver="raw")
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b")
        self.make(2 * SIZE)
        self.resize(2 * SIZE)
        node = next(n for n in self.client.execute("query-named-block-nodes") if n["node-name"] == "disk")
        self.assertEqual(node["dirty-bitmaps"][0]["count"], SIZE)
        self.stop()

    def test_a_base_that_has_grown_holds_what_its_overlay_has_shown(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "top.qcow2", str(2 * SIZE))
        self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -P 84 {SIZE + MiB} 64k", "top.qcow2")
        self.client.execute("blockdev-add", driver="host_device", node_name="device", filename=self.device)
        self.client.execute("blockdev-add", driver="raw", node_name="base", file="device")
        self.client.execute("blockdev-add", driver="qcow2", node_name="disk", backing="base",
                            file={"driver": "file", "filename": "top.qcow2"})
        self.make(2 * SIZE)
        self.client.execute("block-commit", job_id="c", device="disk")
        self.client.wait_event("BLOCK_JOB_READY")
        self.client.execute("block-job-complete", device="c")
        self.client.wait_event("BLOCK_JOB_COMPLETED")
        self.stop()
        with open(self.device, "rb") as device:
            content = device.read()
        self.assertTrue(content == b"D" * SIZE + bytes(MiB) + b"T" * 65536 + bytes(SIZE - MiB - 65536))

    def test_what_a_device_has_not_any_more_is_no_zeroes(self):
        self.add(driver="raw")
        guest = self.guest()
        self.make(SIZE // 2)
        self.assertEqual(guest.pread(MiB, SIZE // 2 - MiB), b"D" * MiB)
        for at in (SIZE // 2 - 4096, SIZE // 2, SIZE - 8192):
            with self.assertRaisesRegex(nbd.Error, "Input/output error"):
                guest.pread(8192, at)
        self.client.execute("blockdev-add", driver="null-co", node_name="target", size=SIZE)
        self.client.execute("blockdev-backup", job_id="b", device="disk", target="target", sync="full", auto_dismiss=False)
        self.assertIn("Input/output error", self.client.wait_job("b")["error"])
        guest.shutdown()
        os.truncate(self.path / "disk.img", SIZE)
        self.lab.run("losetup", "-c", self.device)
        self.stop()

    def test_zeroes_where_another_has_pages_of_the_device(self):
        """The kernel does not zero or discard those."""
        self.client.execute("blockdev-add", driver="host_device", node_name="disk", filename=self.device, discard="unmap")
        guest = self.guest()
        holder = os.open(self.device, os.O_RDWR | os.O_EXCL)
        self.addCleanup(os.close, holder)
        with mmap.mmap(holder, MiB) as pages:
            def use():
                pages[:] = b"P" * MiB
            for flags in (0, nbd.CMD_FLAG_NO_HOLE):
                use()
                guest.zero(MiB, 0, flags)
                self.assertEqual(guest.pread(MiB, 0), bytes(MiB))
            use()
            guest.trim(MiB, 0)
            self.assertTrue(guest.pread(MiB, 0) in (b"P" * MiB, bytes(MiB)))         # advice, which may come to nothing
            self.assertTrue(guest.pread(MiB, MiB) == b"D" * MiB)
        guest.shutdown()
        self.stop()


if __name__ == "__main__":
    unittest.main()
