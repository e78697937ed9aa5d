"""Persistent bitmaps of a block device: what others write to it while no daemon has it is found."""
import pathlib
import unittest

from bed import DONE, MiB, Bed
from lab import processes

DISK = 64 * MiB
BY_ID, STORES = pathlib.Path("/dev/disk/by-id"), pathlib.Path("/var/lib/tidemark/stores")


class DeviceBed(Bed):
    def setUp(self):
        super().setUp()
        (self.path / "disk.img").write_bytes(bytes(DISK))
        self.device = self.loop_device("disk.img")

    def start(self, store=True):
        where = f"tracking.store={self.path}/store," if store else ""
        self.daemon = self.lab.start(
            self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "chardev=c",
            "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
            "--blockdev", f"driver=raw,node-name=disk,{where}file.driver=host_device,file.filename={self.device}",
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

    def attach_anew(self):
        """The file under another number of the kernel's: the device was away."""
        self.detach_loop_device(self.device)
        self.device = self.loop_device("disk.img")

    def bitmap(self):
        node = next(n for n in self.client.execute("query-named-block-nodes") if n["node-name"] == "disk")
        return next(iter(node.get("dirty-bitmaps", ())), None)

    def is_inconsistent(self):
        return self.bitmap().get("inconsistent", False)

    def guest_writes(self, at):
        disk = self.disk()
        disk.pwrite(b"guest" * 1000, at)
        disk.shutdown()


class Device(DeviceBed):
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

    def test_a_loop_device_is_known_by_its_file(self):
        """There is no link to it in /dev/disk/by-id."""
        if self.lab.run("stat", "-c", "%W", "disk.img").stdout.strip() in ("0", "-"):
            self.skipTest("this file system does not tell when a file was made")
        self.start()
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        self.guest_writes(5 * MiB)
        for end in (self.kill, self.kill, self.stop, self.stop):
            end()
            self.attach_anew()
            self.start()
            self.assertNotIn("inconsistent", self.bitmap())
            self.assertGreater(self.bitmap()["count"], 0)
        self.kill()
        (self.path / "disk.img").rename(self.path / "old.img")
        (self.path / "disk.img").write_bytes((self.path / "old.img").read_bytes())
        self.attach_anew()
        self.start()
        self.assertTrue(self.is_inconsistent())
        self.stop()

    def test_the_file_of_a_loop_device_was_written_while_it_had_none(self):
        self.start()
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        self.stop()
        self.detach_loop_device(self.device)
        with open(self.path / "disk.img", "r+b") as image:
            image.seek(7 * MiB + 12345)                # no sampled block is there
            image.write(b"other")
        self.device = self.loop_device("disk.img")
        self.start()
        self.assertTrue(self.is_inconsistent())
        self.stop()


class Named(DeviceBed):
    """Of a device with links in /dev/disk/by-id that come and go; the store is where such a device's is if nobody names another."""

    def setUp(self):
        super().setUp()
        self.links = {}
        for kind in ("dm-uuid", "wwn", "ata"):
            self.links[kind] = BY_ID / f"{kind}-{self.path.name}"
        self.addCleanup(self.remove_links)
        self.addCleanup(self.remove_stores)

    def stores(self):
        by_kernel = f"loop-{(self.path / 'disk.img').stat().st_ino}-"
        there = STORES.iterdir() if STORES.exists() else ()
        return [store for store in there if self.path.name in store.name or store.name.startswith(by_kernel)]

    def store(self):
        made = self.stores()
        self.assertEqual(len(made), 1, made)
        return made[0]

    def remove_stores(self):
        for store in self.stores():
            store.unlink()

    def remove_links(self):
        for link in self.links.values():
            link.unlink(missing_ok=True)

    def link(self, kind):
        BY_ID.mkdir(parents=True, exist_ok=True)
        self.links[kind].symlink_to(self.device)

    def test_a_surer_name_that_comes_later(self):
        for end in (self.kill, self.stop):
            with self.subTest(end.__name__):
                self.link("wwn")
                self.start(store=False)
                self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
                self.guest_writes(5 * MiB)
                store = self.store()
                for kind in ("ata", "dm-uuid"):
                    end()
                    self.link(kind)
                    self.start(store=False)
                    self.assertNotIn("inconsistent", self.bitmap())
                    self.assertGreater(self.bitmap()["count"], 0)
                    self.assertEqual(self.store(), store)
                self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
                self.stop()
                self.remove_links()

    def test_two_stores_of_one_device(self):
        self.link("wwn")
        self.start(store=False)
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        self.stop()
        store = self.store()
        self.link("dm-uuid")
        other = STORES / self.links["dm-uuid"].name
        other.write_bytes(store.read_bytes())
        self.start(store=False)
        self.assertIn("two tracking stores", self.bitmap()["inconsistent-reason"])
        self.store()
        self.kill()
        self.start(store=False)
        self.assertTrue(self.is_inconsistent())
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
        self.stop()


if __name__ == "__main__":
    unittest.main()
