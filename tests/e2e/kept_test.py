"""What becomes of persistent bitmaps and checkpoints where their store, or another program, is not as usual: no mark is lost without
a word, and guests do not wait."""
import shutil
import threading
import time
import unittest

from bed import MiB
from lab.qmp import QmpError
from tracking_bed import DISK, GRANULE, TrackingBed


def about(kind, name="b", **more):
    return {"type": f"block-dirty-bitmap-{kind}", "data": {"node": "disk", "name": name, **more}}


class Kept(TrackingBed):
    def image(self, kind):
        if kind == "raw":
            self.raw("disk.img", DISK)
        else:
            self.qcow2("disk.qcow2", DISK)

    def add_node(self, name, filename, driver="qcow2", **more):
        self.client.execute("blockdev-add", driver=driver, node_name=name, file={"driver": "file", "filename": str(filename)}, **more)

    # Several of one name in a transaction

    def test_killed_while_a_group_has_removed_a_name_twice(self):
        for kind in ("raw", "qcow2"):
            self.image(kind)
            self.start(kind)
            for name in ("b", "other"):
                self.add_bitmap(name)
            self.disk().pwrite(b"1", 5 * GRANULE)
            self.make_target()
            self.client.execute("transaction", properties={"completion-mode": "grouped"}, actions=[
                about("remove"), about("add", persistent=True), about("remove"),
                {"type": "blockdev-backup", "data": {"job-id": "j", "device": "disk", "target": "target", "sync": "full",
                                                     "auto-finalize": False}}])
            self.kill()
            self.start(kind)
            for name in ("b", "other"):
                self.assertGreaterEqual(self.bitmap(name)["count"], GRANULE)
                self.assertNotIn("inconsistent", self.bitmap(name))
            self.kill()

    def make_target(self):
        self.raw("target.img", DISK)
        self.add_node("target", "target.img", "raw")

    def test_an_aborted_clear_keeps_nothing_beside_the_bitmap(self):
        for kind in ("raw", "qcow2"):
            self.image(kind)
            self.start(kind)
            self.add_bitmap("source")
            self.disk().pwrite(bytes(MiB), 0)
            self.add_bitmap("b")
            with self.assertRaises(QmpError):
                self.client.execute("transaction", actions=[
                    {"type": "block-dirty-bitmap-merge", "data": {"node": "disk", "target": "b", "bitmaps": ["source"]}},
                    about("clear"), {"type": "abort", "data": {}}])
            self.assertEqual(self.bitmap("b")["count"], 0)
            self.end()
            self.start(kind)
            self.assertEqual(self.bitmap("b")["count"], 0)
            self.kill()

    # Another program, and checkpoints

    def test_a_checkpoint_whose_newer_one_was_removed_or_disabled_by_another(self):
        for verb in ("--remove", "--disable"):
            self.image("qcow2")
            self.start("qcow2")
            for name in "AB":
                self.client.execute("checkpoint-create", name=name, disks=["disk"])
            newest = self.client.execute("query-checkpoints")[-1]["disks"][0]["bitmap"]
            self.end()
            self.lab.run("qemu-img", "bitmap", verb, "disk.qcow2", newest)
            self.start("qcow2")
            self.disk().pwrite(b"2" * 4096, 0)
            self.make_target()
            for after in (False, True):
                with self.assertRaisesRegex(QmpError, "is inconsistent: what was written since is not known"):
                    self.client.execute("blockdev-backup", job_id="j", device="disk", target="target", sync="incremental", since="A")
                if not after:                            # one that records from here on does not make up for it
                    self.client.execute("checkpoint-create", name="C", disks=["disk"])
            for name in [one["name"] for one in self.client.execute("query-checkpoints")][:-1]:
                self.client.execute("checkpoint-delete", name=name)
            self.kill()
            (self.path / "disk.qcow2.tidemark").unlink()

    # Places for stores

    def test_a_name_that_leaves_no_room_for_the_stores(self):
        name = "n" * 250
        self.image("raw")
        self.image("qcow2")
        self.start("raw")
        shutil.copy(self.path / "disk.qcow2", self.path / name)
        for driver in ("qcow2", "raw"):
            self.add_node("long", name, driver)
            with self.assertRaisesRegex(QmpError, "File name too long"):
                self.client.execute("block-dirty-bitmap-add", node="long", name="b", persistent=True)
            self.client.execute("blockdev-del", node_name="long")
        self.run_tidemark("image", "info", name)

    def test_where_no_store_can_be_made_nothing_new_is_persistent(self):
        """But what the image has stays, as with QEMU."""
        self.image("qcow2")
        self.lab.run("qemu-img", "bitmap", "--add", "disk.qcow2", "old")
        for mode in ("power", "off"):
            self.start("qcow2", more=f",tracking.mode={mode},tracking.store=missing/store")
            for command, arguments in (("block-dirty-bitmap-add", {"node": "disk", "name": "b", "persistent": True}),
                                       ("checkpoint-create", {"name": "c", "disks": ["disk"]})):
                if mode == "off":
                    self.client.execute(command, **arguments)
                    continue
                with self.assertRaisesRegex(QmpError, "cannot be persistent: no tracking store could be made"):
                    self.client.execute(command, **arguments)
            self.assertTrue(self.bitmap("old")["recording"])
            self.end()

    def test_a_snapshot_removes_nothing_but_a_store(self):
        self.image("raw")
        self.start("raw")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "vm.tidemark", "1M")
        self.add_node("other", "vm.tidemark")
        self.client.execute("blockdev-snapshot-sync", **{"node-name": "disk", "snapshot-file": "vm", "snapshot-node-name": "s",
                                                         "format": "qcow2"})
        self.assertTrue((self.path / "vm.tidemark").exists())
        self.image("qcow2")
        self.lab.run("qemu-img", "snapshot", "-c", "s", "disk.qcow2")
        (self.path / "disk.qcow2.tidemark").write_text("precious\n")
        self.run_tidemark("image", "snapshot", "-f", "qcow2", "-a", "s", "disk.qcow2")
        self.assertEqual((self.path / "disk.qcow2.tidemark").read_text(), "precious\n")

    def test_applying_a_snapshot_offline_takes_no_bitmaps_away(self):
        self.image("qcow2")
        self.lab.run("qemu-img", "snapshot", "-c", "s", "disk.qcow2")
        self.start("qcow2")
        self.add_bitmap("b")
        self.kill()
        told = self.fails("image", "snapshot", "-a", "s", "disk.qcow2")
        self.assertIn("its tracking store holds bitmaps, 'b' for one", told)
        self.start("qcow2")
        self.assertNotIn("inconsistent", self.bitmap("b"))
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
        self.kill()
        self.run_tidemark("image", "snapshot", "-a", "s", "disk.qcow2")

    # A full one

    def test_a_full_place_for_the_store_is_nothing_to_other_bitmaps(self):
        self.image("raw")
        self.lab.run("truncate", "-s", "48M", "small")
        self.lab.run("mkfs.ext4", "-q", "small")
        device = self.loop_device("small")
        (self.path / "mnt").mkdir()
        self.lab.run("mount", device, "mnt")
        self.addCleanup(self.lab.run, "umount", "--lazy", self.path / "mnt")
        self.start("raw", more=",tracking.store=mnt/store")
        self.client.execute("block-dirty-bitmap-add", node="disk", name="kept", persistent=True)
        self.client.execute("block-dirty-bitmap-add", node="disk", name="t0", disabled=True)
        with open(self.path / "mnt/filler", "wb") as file:
            try:
                while True:
                    file.write(bytes(MiB))
                    file.flush()
            except OSError:
                pass
        self.fill_store()
        self.client.execute("block-dirty-bitmap-add", node="disk", name="t1")
        self.client.execute("block-dirty-bitmap-enable", node="disk", name="t0")
        self.client.execute("block-dirty-bitmap-merge", node="disk", target="t0", bitmaps=["t1"])
        self.make_target()
        self.client.execute("transaction", actions=[
            about("add", "t2"), {"type": "blockdev-backup", "data": {"job-id": "j", "device": "disk", "target": "target",
                                                                     "sync": "full"}}])
        self.client.wait_event("BLOCK_JOB_COMPLETED", device="j")
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="t2")
        self.kill()

    def fill_store(self):
        """Until one more cannot be kept."""
        for number in range(500):
            try:
                self.client.execute("block-dirty-bitmap-add", node="disk", name=f"{number}-" + "n" * 1000, persistent=True)
            except QmpError as error:
                self.assertIn("No space left", str(error))
                return
        self.fail("the store's place is not full")

    # Suspicion

    def test_what_is_merged_is_not_suspected(self):
        self.image("raw")
        self.start("raw")
        for name, end in (("knows", self.end), ("suspects", self.kill)):
            self.add_bitmap(name)
            self.disk().pwrite(b"3" * 4096, 3 * GRANULE)
            end()
            self.start("raw")
        self.assertNotIn("suspected", self.bitmap("knows"))
        self.assertEqual(self.bitmap("suspects")["suspected"], GRANULE)
        self.client.execute("block-dirty-bitmap-merge", node="disk", target="suspects", bitmaps=["knows"])
        self.assertNotIn("suspected", self.bitmap("suspects"))

    # Sizes

    def test_a_disk_is_not_resized_to_what_its_image_could_not_keep_bitmaps_of(self):
        self.image("qcow2")
        self.start("qcow2")
        self.client.execute("block-export-del", id="disk")
        self.until(lambda: not self.client.execute("query-block-exports"), "the end of the export")
        self.client.execute("block-dirty-bitmap-add", node="disk", name="fine", persistent=True, granularity=512)
        for size in (0, 4 << 40):
            with self.assertRaisesRegex(QmpError, "Bitmap 'fine' cannot be kept in 'disk' with that size"):
                self.client.execute("block_resize", node_name="disk", size=size)
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="fine")
        self.client.execute("block_resize", node_name="disk", size=4 << 40)

    def test_what_a_disk_gained_from_below_and_lost_has_changed(self):
        self.raw("disk.img", MiB)
        self.start("raw", more=",file.node-name=below")
        self.client.execute("block-export-del", id="disk")
        self.until(lambda: not self.client.execute("query-block-exports"), "the end of the export")
        self.client.execute("block_resize", node_name="below", size=2 * MiB)
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b")
        for size in (MiB, 2 * MiB):
            self.client.execute("block_resize", node_name="disk", size=size)
        self.assertEqual(self.bitmap("b")["count"], MiB)

    # Guests

    def test_guests_do_not_wait_for_a_store_that_is_not_to_be_had(self):
        """Of the image below a raw node, which has it: the lock is waited for."""
        self.image("raw")
        self.start("raw")
        below = next(n["file"] for n in self.client.execute("query-named-block-nodes") if n["node-name"] == "disk")
        self.assertTrue(below.endswith("disk.img"))
        self.client.execute("block-dirty-bitmap-add", node=self.file_node(), name="theirs", persistent=True)
        longest, stop = [0.0], threading.Event()

        def write():
            guest = self.disk()
            while not stop.is_set():
                before = time.monotonic()
                guest.pwrite(b"x" * 4096, 4096)
                longest[0] = max(longest[0], time.monotonic() - before)

        for actions in ([about("add", persistent=True)], [{"type": "checkpoint-create", "data": {"name": "c", "disks": ["disk"]}}]):
            stop.clear()
            longest[0] = 0.0
            thread = threading.Thread(target=write)
            thread.start()
            time.sleep(0.2)
            began = time.monotonic()
            with self.assertRaises(QmpError):
                self.client.execute("transaction", actions=actions)
            took = time.monotonic() - began
            stop.set()
            thread.join(20)
            self.assertGreater(took, 1)
            self.assertLess(longest[0], took / 2)

    def file_node(self):
        return next(n["node-name"] for n in self.client.execute("query-named-block-nodes") if n["drv"] == "file")


if __name__ == "__main__":
    unittest.main()
