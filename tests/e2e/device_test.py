"""Persistent bitmaps of a block device: what others write to it while no daemon has it is found."""
import unittest

from bed import DONE, MiB, Bed
from lab import processes

DISK = 64 * MiB


class Device(Bed):
    def setUp(self):
        super().setUp()
        (self.path / "disk.img").write_bytes(bytes(DISK))
        self.device = self.loop_device("disk.img")

    def start(self):
        self.daemon = self.lab.start(
            self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "chardev=c",
            "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
            "--blockdev", f"driver=raw,node-name=disk,tracking.store={self.path}/store,file.driver=host_device,"
                          f"file.filename={self.device}",
            "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on")
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()

    def stop(self):
        self.assertEqual(self.lab.stop(self.daemon), DONE)

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()
        self.lab.ended(self.daemon)
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)

    def is_inconsistent(self):
        node = next(n for n in self.client.execute("query-named-block-nodes") if n["node-name"] == "disk")
        return node["dirty-bitmaps"][0].get("inconsistent", False)

    def guest_writes(self, at):
        disk = self.disk()
        disk.pwrite(b"guest" * 1000, at)
        disk.shutdown()

    # Where no sampled block is:

    def other_writes(self):
        with open(self.device, "r+b", buffering=0) as device:
            device.seek(7 * MiB + 12345)
            device.write(b"other" * 1000)

    def other_trims(self):
        trimmed = self.lab.run("blkdiscard", "-o", str(3 * MiB), "-l", str(MiB), self.device, ok=None)
        if trimmed.returncode:
            self.skipTest(f"the loop device cannot be trimmed: {trimmed.stderr.strip()}")

    def test_changed_by_others_after_an_orderly_end(self):
        for change in (self.other_writes, self.other_trims):
            with self.subTest(change.__name__):
                self.start()
                self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
                for at in (MiB, 5 * MiB):
                    self.guest_writes(at)
                    self.stop()
                    self.start()
                    self.assertFalse(self.is_inconsistent())
                self.stop()
                change()
                self.start()
                self.assertTrue(self.is_inconsistent())
                self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
                self.stop()

    def test_written_by_another_host_where_the_guest_was(self):
        self.start()
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        self.guest_writes(40 * MiB)
        self.stop()
        self.start()
        self.assertFalse(self.is_inconsistent())
        self.stop()
        # The kernel of this host hears nothing of it.
        self.lab.run("qemu-io", "-f", "raw", "-c", "write -P 7 40M 64k", "disk.img")
        self.start()
        self.assertTrue(self.is_inconsistent())
        self.stop()

    def test_written_and_not_synced_while_another_has_it_open(self):
        """The kernel counts what reaches the device."""
        self.start()
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        self.stop()
        with open(self.device, "rb"):
            self.other_writes()
            self.start()
            self.assertTrue(self.is_inconsistent())
            self.stop()

    def test_distrust_after_inactivity_outlives_a_kill(self):
        """Another host writes to the device while the node is inactive."""
        for end in (self.kill, self.stop):
            with self.subTest(end.__name__):
                self.start()
                self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
                self.client.execute("block-export-del", id="disk")
                self.client.execute("blockdev-set-active", node_name="disk", active=False)
                self.lab.run("qemu-io", "-f", "raw", "-c", "write -P 7 32M 64k", "disk.img")
                self.client.execute("blockdev-set-active", node_name="disk", active=True)
                self.assertTrue(self.is_inconsistent())
                end()
                self.start()
                self.assertTrue(self.is_inconsistent())
                self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
                self.stop()


if __name__ == "__main__":
    unittest.main()
