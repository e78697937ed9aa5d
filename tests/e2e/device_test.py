"""Persistent bitmaps of a block device: what others write to it while no daemon has it is found."""
import json
import os
import pathlib
import shutil
import subprocess
import unittest

from bed import DONE, MiB, Bed
from lab import processes
from lab.qmp import QmpError

DISK = 64 * MiB
BY_ID, STORES = pathlib.Path("/dev/disk/by-id"), pathlib.Path("/var/lib/tidemark/stores")


class DeviceBed(Bed):
    def setUp(self):
        super().setUp()
        (self.path / "disk.img").write_bytes(bytes(DISK))
        self.device = self.loop_device("disk.img")

    def start(self, store=True, read_only=False):
        where = f"tracking.store={self.path / 'store' if store is True else store}," if store else ""
        self.daemon = self.lab.start(
            self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "chardev=c",
            "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
            "--blockdev", f"driver=raw,node-name=disk,{where}{'read-only=on,' if read_only else ''}file.driver=host_device,file.filename={self.device}",
            "--export", f"nbd,id=disk,node-name=disk,name=disk,writable={'off' if read_only else 'on'}")
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

    def add(self):
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)

    def changed(self):
        """What the bitmap says of the MiBs."""
        self.client.execute("block-export-add", type="nbd", id="look", node_name="disk", name="look", writable=True,
                            bitmaps=["b"])
        told = self.lab.run("nbdinfo", "--json", "--map=qemu:dirty-bitmap:b", f"nbd+unix:///look?socket={self.path}/nbd.sock").stdout
        self.client.execute("block-export-del", id="look")
        self.until(lambda: all(e["id"] != "look" for e in self.client.execute("query-block-exports")), "the export is gone")
        return [part["offset"] // MiB for part in json.loads(told) if part["type"] & 1]

    def partition(self, disk, start, size):
        """The first of a disk, from a MiB on."""
        made = self.lab.run("addpart", disk, "1", str(start * 2048), str(size * 2048), ok=None)
        if made.returncode:
            self.skipTest(f"no partition of a loop device here: {made.stderr.strip()}")
        return f"{disk}p1"

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


    def test_the_file_of_a_loop_device_grows(self):
        """Which the device does not hear of by itself."""
        self.start(store=False)
        self.addCleanup(self.remove_stores)
        self.add()
        self.guest_writes(5 * MiB)
        self.kill()
        os.truncate(self.path / "disk.img", DISK + MiB)
        self.start(store=False)
        self.guest_writes(20 * MiB)
        self.assertEqual(self.changed(), [5, 20])
        self.stop()

    def remove_stores(self):
        for store in STORES.glob(f"loop-{(self.path / 'disk.img').stat().st_ino}-*"):
            store.unlink()

    def test_a_loop_device_of_a_file_that_is_not_seen_here(self):
        """Another one is there under its name, and as large."""
        script = 'mount -t tmpfs x "$1" && truncate -s $2 "$1/disk.img" && losetup -f --show "$1/disk.img" && exec sleep 100'
        holder = subprocess.Popen(["unshare", "-m", "sh", "-c", script, "x", self.path, str(DISK)], stdout=subprocess.PIPE, text=True)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        self.addCleanup(holder.stdout.close)
        elsewhere = holder.stdout.readline().strip()
        if not elsewhere:
            self.skipTest("no mount namespace here")
        self.addCleanup(subprocess.run, ["losetup", "-d", elsewhere], check=True)
        shown = pathlib.Path("/sys/block", pathlib.Path(elsewhere).name, "loop", "backing_file")
        self.assertEqual(shown.read_text().strip(), str(self.path / "disk.img"))
        here, self.device = self.device, elsewhere
        self.addCleanup(self.remove_stores)
        self.start(store=False)
        with self.assertRaisesRegex(QmpError, "has no name"):
            self.add()
        self.kill()
        self.device = here
        self.start(store=False)
        self.add()
        self.stop()

    def test_a_partition_of_a_loop_device(self):
        """Is changed like the file, and is where it is."""
        whole, self.device = self.device, None
        self.detach_loop_device(whole)

        def attach(start=1):
            whole = self.loop_device("disk.img", "-P")
            self.device = self.partition(whole, start, 32)
            return whole

        whole = attach()
        self.start()
        self.add()
        self.guest_writes(5 * MiB)
        for end in (self.kill, self.stop):
            end()
            self.detach_loop_device(whole)
            whole = attach()
            self.start()
            self.assertFalse(self.is_inconsistent())
            self.assertEqual(self.changed(), [5])
        self.stop()
        self.detach_loop_device(whole)
        with open(self.path / "disk.img", "r+b") as image:
            image.seek(21 * MiB + 12345)
            image.write(b"other")
        whole = attach()
        self.start()
        self.assertTrue(self.is_inconsistent())
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
        self.add()
        self.kill()
        self.lab.run("delpart", whole, "1")
        self.partition(whole, 20, 32)
        self.start()
        self.assertTrue(self.is_inconsistent())
        self.stop()


class NamedBed(DeviceBed):
    """Of a device with links in /dev/disk/by-id that come and go; the store is where such a device's is if nobody names another."""

    def setUp(self):
        super().setUp()
        self.links = {}
        for kind in ("dm-uuid", "wwn", "ata", "virtio"):
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


class Named(NamedBed):
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

    def test_the_name_that_the_store_has_goes(self):
        """It knows the device by a surer one."""
        self.link("wwn")
        self.start(store=False)
        self.add()
        self.stop()
        self.store().rename(STORES / self.links["ata"].name)
        self.link("ata")
        self.start(store=False)
        self.guest_writes(5 * MiB)
        self.kill()
        self.links["ata"].unlink()
        self.start(store=False)
        self.guest_writes(20 * MiB)
        self.assertEqual(self.changed(), [5, 20])
        self.stop()

    def test_a_serial_number_that_was_given_twice(self):
        """The link leads to the other disk now; each is known by a surer name."""
        self.link("ata")
        self.link("wwn")
        self.start(store=False)
        self.add()
        self.guest_writes(5 * MiB)
        self.stop()
        store = self.store()
        moved = store.rename(STORES / self.links["ata"].name)
        before = moved.read_bytes()
        one = self.device
        shutil.copy(self.path / "disk.img", self.path / "other.img")
        self.device = self.loop_device("other.img")
        self.links["ata"].unlink()
        self.link("ata")
        self.start(store=False)
        self.assertIsNone(self.bitmap())
        self.add()
        self.addCleanup(self.remove_of_other, (self.path / "other.img").stat().st_ino)
        self.stop()
        self.assertEqual(moved.read_bytes(), before)
        self.device = one
        self.start(store=False)
        self.assertEqual(self.changed(), [5])
        self.stop()

    def remove_of_other(self, inode):
        for store in STORES.glob(f"loop-{inode}-*"):
            store.unlink()

    def test_a_store_beside_one_that_is_damaged(self):
        self.start(store=False)
        self.add()
        self.guest_writes(5 * MiB)
        self.stop()
        store, damaged = self.store(), STORES / self.links["dm-uuid"].name
        damaged.write_bytes(b"TMTRACK1" + bytes(8192) + store.read_bytes()[8200:])
        self.link("dm-uuid")
        self.start(store=False)
        self.assertIn("no valid root", self.bitmap()["inconsistent-reason"])
        self.assertEqual(self.store(), store)
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
        self.stop()

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


class Nameless(NamedBed):
    """The kernel tells nothing of it that stays."""
    disk_size = 61 * MiB                                 # no other test's

    def setUp(self):
        super().setUp()
        os.truncate(self.path / "disk.img", self.disk_size)
        self.lab.run("losetup", "-c", self.device)
        self.inner, self.device = self.device, self.loop_device(self.device, "-P")

    def made(self, device=None):
        """A store, with 5 MiB changed."""
        self.links["virtio"].unlink(missing_ok=True)
        self.links["virtio"].parent.mkdir(parents=True, exist_ok=True)
        self.links["virtio"].symlink_to(device or self.device)
        self.start(store=False)
        self.add()
        self.guest_writes(5 * MiB)

    def test_by_another_node(self):
        self.made()
        self.kill()
        whole, made = self.device, os.stat(self.device)
        self.device = self.path / "node"
        os.mknod(self.device, made.st_mode, made.st_rdev)
        try:
            os.close(os.open(self.device, os.O_RDONLY))
        except PermissionError:
            self.skipTest("devices are not to be used in this directory")
        self.start(store=False)
        self.assertFalse(self.is_inconsistent())
        self.guest_writes(20 * MiB)
        self.stop()
        self.device = whole
        self.start(store=False)
        self.assertEqual(self.changed(), [5, 20])
        self.stop()

    def test_without_its_name_for_a_while(self):
        for end in (self.kill, self.stop):
            with self.subTest(end.__name__):
                self.made()
                end()
                self.links["virtio"].unlink()
                self.start(store=False)
                self.assertIsNone(self.bitmap())
                self.guest_writes(20 * MiB)
                self.stop()
                self.link("virtio")
                self.start(store=False)
                self.assertIn("no name", self.bitmap()["inconsistent-reason"])
                self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
                self.stop()

    def test_it_is_told_whose_store_is_doubted(self):
        self.made()
        self.kill()
        self.links["virtio"].unlink()
        nameless, self.device = self.device, self.inner
        self.start(store=False)
        self.client.execute("blockdev-add", driver="raw", node_name="late", file={"driver": "host_device", "filename": nameless})
        self.client.wait_event("TRACKING_STORE_STATUS", status="inconsistent")
        self.assertIn(str(self.store()), self.client.events[-1]["data"]["message"])
        self.stop()

    def test_a_store_that_is_named_is_its_own(self):
        """Wherever it lies."""
        store = STORES / f"mine-{self.path.name}"
        self.start(store=store)
        self.add()
        for end in (self.kill, self.stop, self.stop):
            end()
            self.start(store=store)
            self.assertFalse(self.is_inconsistent())
        self.stop()

    def test_shown_without_its_name(self):
        """Nothing is written, so nothing is lost."""
        self.made()
        self.stop()
        self.links["virtio"].unlink()
        self.start(store=False, read_only=True)
        self.assertIsNone(self.bitmap())
        self.stop()
        self.link("virtio")
        self.start(store=False)
        self.assertEqual(self.changed(), [5])
        self.stop()

    def test_a_store_that_is_found_late_is_not_made_anew(self):
        self.made()
        self.stop()
        self.links["virtio"].unlink()
        self.start(store=False)
        self.assertIsNone(self.bitmap())
        self.link("virtio")
        before = self.store().read_bytes()
        with self.assertRaisesRegex(QmpError, "add it again"):
            self.client.execute("block-dirty-bitmap-add", node="disk", name="c", persistent=True)
        self.assertEqual(self.store().read_bytes(), before)
        self.stop()
        self.start(store=False)
        self.assertEqual(self.bitmap()["name"], "b")
        self.stop()

    def test_samples_are_not_what_the_page_cache_remembers(self):
        """Of a partition that somebody has open, while its disk is written: the partition's counters hear nothing of it."""
        whole = self.device
        self.device = self.partition(whole, 1, 32)
        for cached in (True, False):
            with self.subTest(cached=cached), open(self.device, "rb") as holder:
                self.made()
                self.stop()
                self.start(store=False)
                self.assertFalse(self.is_inconsistent())
                self.stop()
                if cached:
                    holder.read(4096)
                self.lab.run("qemu-io", "-f", "host_device", "-t", "none", "-c", f"write -P {7 + cached} 1M 64k", whole)
                self.start(store=False)
                self.assertTrue(self.is_inconsistent())
                self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
                self.stop()

    def test_a_partition_that_is_made_again(self):
        """Its counters begin anew: nobody knows what it was meanwhile."""
        whole = self.device
        self.device = self.partition(whole, 1, 32)
        self.made()
        for at in range(6, 20):
            self.guest_writes(at * MiB)
        self.stop()
        self.lab.run("delpart", whole, "1")
        self.partition(whole, 1, 32)
        self.lab.run("qemu-io", "-f", "host_device", "-t", "none", "-c", "write -P 7 21M 4k", self.device)
        self.links["virtio"].unlink()
        self.link("virtio")
        self.start(store=False)
        self.assertTrue(self.is_inconsistent())
        self.stop()


if __name__ == "__main__":
    unittest.main()
