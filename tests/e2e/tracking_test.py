"""Persistent bitmaps of the real daemon: killed under load, they are there again, and the incremental backup
that goes on from the last point restores the disk."""
import ctypes
import json
import os
import random
import subprocess
import threading
import time
import unittest

from bed import DONE, KiB, MiB, Bed, first_difference
from lab import processes
from lab.qmp import QmpError
from tracking_bed import DISK, GRANULE, TrackingBed


class _Digest(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def digest(data):
    hasher = ctypes.CDLL("libxxhash.so.0").XXH3_128bits
    hasher.restype = _Digest
    hasher.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    found = hasher(data, len(data))
    return f"{found.high:016x}{found.low:016x}"


class Load:
    """Writes without end until the daemon is killed."""

    def __init__(self, bed, seed):
        self.bed, self.rng = bed, random.Random(seed)
        self.granules = set()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            disk = self.bed.disk()
            while True:
                at = self.rng.randrange(DISK // 4096) * 4096
                self.granules.add(at // GRANULE)
                disk.pwrite(self.rng.randbytes(4096), at)
        except Exception:                        # the daemon is gone
            pass

    def finish(self):
        self.thread.join(20)


class Tracking(TrackingBed):
    def take(self, number, base, bitmap):
        """A point: an image on top of the one before it."""
        name = f"point{number}.qcow2"
        backing = ["-b", base, "-F", "qcow2"] if base else []
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *backing, name, str(DISK))
        self.client.execute("blockdev-add", driver="qcow2", node_name="target", backing=None,
                            file={"driver": "file", "filename": name})
        options = {"sync": "incremental", "bitmap": bitmap} if base else {"sync": "full"}
        action = {"type": "blockdev-backup", "data": {"job-id": "j", "device": "disk", "target": "target",
                                                      "auto-dismiss": False, **options}}
        actions = [action]
        if not base:
            actions.insert(0, {"type": "block-dirty-bitmap-add",
                               "data": {"node": "disk", "name": bitmap, "persistent": True, "granularity": GRANULE}})
        self.client.execute("transaction", actions=actions)
        self.until(lambda: self.client.execute("query-jobs")[0]["status"] == "concluded", "the end of the job")
        job = self.client.execute("query-jobs")[0]
        self.assertNotIn("error", job)
        self.client.execute("job-dismiss", id="j")
        self.client.execute("blockdev-del", node_name="target")
        return name

    def restored_point(self, name):
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", name, "restored.img")
        return (self.path / "restored.img").read_bytes()

    def rounds(self, kind):
        if kind == "raw":
            self.raw("disk.img", DISK)
        else:
            self.qcow2("disk.qcow2", DISK)
        self.start(kind)
        base = self.take(0, None, "b")
        rng = random.Random(5)
        for number in range(1, 7):
            load = Load(self, number)
            time.sleep(rng.uniform(0.05, 0.4))
            self.kill()
            load.finish()
            self.start(kind)
            bitmap = self.bitmap("b")
            self.assertIsNotNone(bitmap)
            self.assertNotIn("inconsistent", bitmap)
            self.assertTrue(bitmap["recording"] and bitmap["persistent"])
            # What is suspected stays in proportion to what was written.
            self.assertLessEqual(bitmap["count"] / GRANULE, 1.5 * len(load.granules) + 2)
            base = self.take(number, base, "b")
            self.assertEqual(first_difference(self.restored_point(base), self.content()), None)
            self.assertEqual(self.bitmap("b")["count"], 0)
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        if kind == "qcow2":
            self.lab.run("qemu-img", "check", "-q", "disk.qcow2", ok=(0, 3))

    def test_a_chain_through_kills_raw(self):
        self.rounds("raw")

    def test_a_chain_through_kills_qcow2(self):
        self.rounds("qcow2")

    def test_killed_in_the_middle_of_an_incremental_backup(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        base = self.take(0, None, "b")
        for number in range(1, 4):
            self.change(seed=number, count=200)
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "lost.qcow2", str(DISK))
            self.client.execute("blockdev-add", driver="qcow2", node_name="target", file={"driver": "file", "filename": "lost.qcow2"})
            self.client.execute("blockdev-backup", job_id="j", device="disk", target="target", sync="incremental", bitmap="b",
                                speed=1 * MiB)
            self.change(seed=100 + number, count=50)
            self.kill()
            self.start("raw")
            base = self.take(number, base, "b")
            self.assertEqual(first_difference(self.restored_point(base), self.content()), None)

    def test_clean_end_and_what_was_done_is_there(self):
        self.qcow2("disk.qcow2", DISK)
        self.start("qcow2")
        for name in ("a", "b", "c", "d"):
            self.add_bitmap(name)
        self.change()
        self.client.execute("block-dirty-bitmap-disable", node="disk", name="a")
        self.client.execute("block-dirty-bitmap-clear", node="disk", name="b")
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="c")
        before = {name: self.bitmap(name) for name in "abcd"}
        for end in ("kill", "stop"):
            if end == "kill":
                self.kill()
            else:
                self.assertEqual(self.lab.stop(self.daemon), DONE)
            self.start("qcow2")
            for name in "abcd":
                found = self.bitmap(name)
                if found:
                    found.pop("suspected", None)
                self.assertEqual(found, before[name], (end, name))
        for name in "abd":
            self.client.execute("block-dirty-bitmap-remove", node="disk", name=name)
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        self.assertFalse((self.path / "disk.qcow2.tidemark").exists())

    def test_a_bitmap_of_a_node_below_another(self):
        (self.path / "disk.img").write_bytes(bytes(DISK))
        nodes = ("--blockdev", "file,node-name=below,filename=disk.img", "--blockdev", "raw,node-name=above,file=below")
        for holder in ("below", "above"):
            for added in (True, False):
                self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                             "--monitor", "chardev=c", *nodes)
                processes.wait_for_socket(self.path / "qmp.sock", self.daemon)
                client = self.qmp()
                if added:
                    client.execute("block-dirty-bitmap-add", node=holder, name="b", persistent=True)
                found = {node["node-name"]: [one["name"] for one in node.get("dirty-bitmaps", ())]
                         for node in client.execute("query-named-block-nodes")}
                self.assertEqual(found, {"below": [], "above": [], holder: ["b"]})
                if not added:
                    client.execute("block-dirty-bitmap-remove", node=holder, name="b")
                self.assertEqual(self.lab.stop(self.daemon), DONE)

    def test_an_image_that_was_written_meanwhile(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        self.add_bitmap("b")
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        with open(self.path / "disk.img", "r+b") as file:
            file.write(b"somebody else")
        self.start("raw")
        self.assertTrue(self.bitmap("b")["inconsistent"])
        self.assertIn("changed while the store was closed", self.bitmap("b")["inconsistent-reason"])
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")

    def test_an_image_that_took_the_place_of_another_after_a_kill(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        self.add_bitmap("b")
        self.kill()
        (self.path / "disk.img").unlink()
        self.raw("disk.img", DISK, seed=9)       # often with the same inode
        self.start("raw")
        self.assertEqual(self.bitmap("b")["inconsistent-reason"], "the image is another file than the store's")

    def test_an_image_that_took_the_place_of_another_while_it_was_open(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        self.add_bitmap("b")
        self.raw("new.img", DISK, seed=9)
        (self.path / "new.img").rename(self.path / "disk.img")
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        self.start("raw")
        self.assertEqual(self.bitmap("b")["inconsistent-reason"], "the image is another file than the store's")

    def test_a_store_is_not_begun_for_the_file_that_took_the_place_of_the_image(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        self.raw("new.img", DISK, seed=9)
        (self.path / "new.img").rename(self.path / "disk.img")
        with self.assertRaisesRegex(QmpError, "is another file by now"):
            self.add_bitmap("b")

    def test_nothing_but_a_store_is_taken_for_one(self):
        self.raw("disk.img", DISK)
        self.raw("other.img", DISK, seed=5)
        before = {name: (self.path / name).read_bytes() for name in ("disk.img", "other.img")}
        self.start("raw")
        self.client.execute("block-export-del", id="disk")
        self.until(lambda: not self.client.execute("query-block-exports"), "the end of the export")
        self.client.execute("blockdev-del", node_name="disk")
        for name, store, reason in (("a", "disk.img", "is the image itself"), ("b", "other.img", "is no tracking store")):
            self.client.execute("blockdev-add", driver="raw", node_name=name, tracking={"store": store},
                                file={"driver": "file", "filename": "disk.img"})
            with self.assertRaisesRegex(QmpError, reason):
                self.client.execute("block-dirty-bitmap-add", node=name, name="x", persistent=True)
            self.client.execute("blockdev-del", node_name=name)
        for name, content in before.items():
            self.assertEqual((self.path / name).read_bytes(), content)

    def test_a_store_in_use_is_not_overwritten(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        self.add_bitmap("b")
        store = self.path / "disk.img.tidemark"
        before = store.read_bytes()
        for command, name in (("blockdev-snapshot-sync", "snapshot-file"), ("drive-backup", "target")):
            disk = {"node-name": "disk"} if name == "snapshot-file" else {"device": "disk", "sync": "full", "job-id": "j"}
            with self.assertRaisesRegex(QmpError, "is in use as the tracking store of a disk"):
                self.client.execute(command, **disk, **{name: str(store), "format": "qcow2"},
                                    **({"snapshot-node-name": "o"} if name == "snapshot-file" else {}))
        self.assertIn("tracking store", self.fails("image", "create", "-f", "raw", store, "1M"))
        self.assertEqual(store.read_bytes(), before)

    def test_what_has_the_stores_own_name_is_left_alone(self):
        """A link that leads elsewhere, another file, and what is no file at all and would be waited for."""
        self.raw("disk.img", DISK)
        self.raw("other.img", DISK, seed=5)
        store, other = self.path / "disk.img.tidemark", self.path / "other.img"
        before = other.read_bytes()
        for reason, make in (("is a symbolic link", lambda: store.symlink_to(other)),
                             ("is no tracking store: remove it", lambda: store.write_bytes(b"mine" * 999)),
                             ("is no tracking store", lambda: os.mkfifo(store))):
            with self.subTest(reason):
                self.start("raw")
                make()
                try:
                    with self.assertRaisesRegex(QmpError, reason):
                        self.add_bitmap("b")
                finally:
                    self.kill()
                    store.unlink()
                self.assertEqual(other.read_bytes(), before)

    def test_the_name_of_a_bitmap_that_a_group_has_removed_is_taken(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        self.add_bitmap("b")
        self.client.execute("blockdev-add", driver="null-co", node_name="target", size=DISK)
        self.client.execute("transaction", properties={"completion-mode": "grouped"}, actions=[
            {"type": "block-dirty-bitmap-remove", "data": {"node": "disk", "name": "b"}},
            {"type": "blockdev-backup", "data": {"job-id": "j", "device": "disk", "target": "target", "sync": "full", "speed": 65536}}])
        with self.assertRaisesRegex(QmpError, "in use by another operation"):
            self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        self.client.execute("block-job-cancel", device="j")
        self.until(lambda: not self.client.execute("query-jobs"), "the end of the job")
        self.assertTrue(self.bitmap("b")["recording"])

    def test_a_failed_transaction_changes_nothing(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        self.add_bitmap("b")
        self.change()
        before = self.bitmap("b")
        data = {"node": "disk", "name": "b"}
        for kind in ("clear", "remove", "disable"):
            with self.assertRaises(QmpError):
                self.client.execute("transaction", actions=[{"type": f"block-dirty-bitmap-{kind}", "data": data},
                                                            {"type": "abort", "data": {}}])
            self.assertEqual(self.bitmap("b"), before)
        self.kill()
        self.start("raw")
        self.assertGreaterEqual(self.bitmap("b")["count"], before["count"])

    def test_suspicion_is_cleared_by_checksums(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        base = self.take(0, None, "b")
        point = (self.path / "disk.img").read_bytes()
        disk = self.disk()
        disk.pwrite(b"changed", 5 * GRANULE)
        disk.pwrite(point[9 * GRANULE:9 * GRANULE + 4096], 9 * GRANULE)      # as it was
        self.kill()
        self.start("raw")
        self.assertEqual(self.bitmap("b")["suspected"], 2 * GRANULE)
        granules = [{"offset": at, "digest": digest(point[at:at + GRANULE])} for at in range(0, DISK, GRANULE)]
        answer = self.client.execute("block-dirty-bitmap-clear-suspected", node="disk", name="b", granularity=GRANULE,
                                     granules=granules)
        self.assertEqual(answer, {"cleared": GRANULE, "suspected": GRANULE})
        self.kill()
        self.start("raw")
        self.assertEqual(self.bitmap("b")["count"], GRANULE)
        base = self.take(1, base, "b")
        self.assertEqual(first_difference(self.restored_point(base), self.content()), None)

    def test_on_an_iothread(self):
        self.raw("disk.img", DISK)
        self.start("raw", "--object", "iothread,id=t0")
        self.add_bitmap("b")
        self.change(seed=1)
        self.client.execute("block-export-del", id="disk")
        self.until(lambda: not self.client.execute("query-block-exports"), "the end of the export")
        self.client.execute("block-export-add", type="nbd", id="disk", node_name="disk", name="disk", writable=True,
                            iothread="t0", fixed_iothread=True)
        before = self.bitmap("b")["count"]
        self.change(seed=2, count=100)
        self.add_bitmap("c")
        self.change(seed=3)
        counts = {name: self.bitmap(name)["count"] for name in "bc"}
        self.assertGreater(counts["b"], before)
        self.kill()
        self.start("raw", "--object", "iothread,id=t0")
        for name in "bc":
            self.assertGreaterEqual(self.bitmap(name)["count"], counts[name])
        self.assertEqual(self.lab.stop(self.daemon), DONE)

    def test_a_damaged_store_is_said_to_be(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        self.add_bitmap("b")
        self.kill()
        store = self.path / "disk.img.tidemark"
        store.write_bytes(b"x" * 8192 + store.read_bytes()[8192:])
        self.start("raw", stderr=True)
        self.assertIsNone(self.bitmap("b"))
        with self.assertRaisesRegex(QmpError, "is no tracking store: remove it, or name another 'store'"):
            self.add_bitmap("b")                     # it may be anybody's
        store.unlink()
        self.add_bitmap("b")
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        with self.daemon.stderr as said:
            self.assertIn("has no valid root", said.read())

    def test_what_cannot_be_persistent_says_why(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        self.client.execute("blockdev-add", driver="null-co", node_name="null")
        with self.assertRaises(QmpError) as caught:
            self.client.execute("block-dirty-bitmap-add", node="null", name="b", persistent=True)
        self.assertIn("no image in a file", caught.exception.desc)

    def test_a_backup_says_that_its_bitmaps_end_with_the_daemon(self):
        self.raw("disk.img", DISK)
        self.start("raw")
        self.client.execute("blockdev-add", driver="memory", node_name="memory", size=MiB)
        done = self.run_tidemark("backup", "backups", "--disk", "memory")
        self.assertIn("'memory' cannot be persistent", done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        told = self.run_tidemark("backup", "backups", "--disk", "memory", "--json")
        self.assertEqual(told.stderr, "")
        self.assertFalse(json.loads(told.stdout)["bitmaps-persistent"])
        self.assertIn("'memory' cannot be persistent", json.loads(told.stdout)["bitmaps-reason"])
        told = self.json("backup", "others", "--disk", "disk")
        self.assertEqual((told["bitmaps-persistent"], told["bitmaps-reason"]), (True, None))


if __name__ == "__main__":
    unittest.main()
