"""Images that are only read for a while and then written again, in a daemon that goes on: others may read them meanwhile, their
bitmaps are stored in them, and no mark is lost afterwards, not by a kill either."""
import json
import os
import signal
import unittest

from bed import KiB, MiB, Bed, first_difference
from lab import processes
from lab.qmp import QmpError

DISK = 8 * MiB


class Reopen(Bed):
    def start(self, kind):
        self.image = f"disk.{kind}"
        if not (self.path / self.image).exists():
            (self.raw if kind == "raw" else self.qcow2)(self.image, DISK)
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)
        self.options = {"driver": kind, "node-name": "disk", "file": {"driver": "file", "filename": self.image}}
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "c",
                                     "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--blockdev", json.dumps(self.options))
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()

    def kill(self):
        os.kill(self.daemon.pid, signal.SIGKILL)
        self.daemon.wait(30)
        self.lab.ended(self.daemon)

    def export(self, on=True):
        if on:
            self.client.execute("block-export-add", type="nbd", id="disk", **{"node-name": "disk", "name": "disk", "writable": True})
        else:
            self.client.execute("block-export-del", id="disk", mode="hard")
            self.client.wait_event("BLOCK_EXPORT_DELETED", id="disk")

    def write(self, *granules):
        self.export()
        handle = self.disk()
        for granule in granules:
            handle.pwrite(b"w" * 4 * KiB, granule * 64 * KiB)
        handle.shutdown()
        self.export(False)

    def read_only(self, on):
        self.client.execute("blockdev-reopen", options=[{**self.options, "read-only": on}])

    def bitmap(self):
        nodes = self.client.execute("query-named-block-nodes")
        return next(node for node in nodes if node["node-name"] == "disk")["dirty-bitmaps"][0]

    def goes_on(self, kind):
        self.start(kind)
        self.client.execute("block-dirty-bitmap-add", node="disk", name="since", persistent=True)
        self.write(1, 2)
        self.read_only(True)
        self.assertEqual(self.bitmap()["count"], 128 * KiB)
        with self.assertRaises(QmpError):
            self.client.execute("block-dirty-bitmap-clear", node="disk", name="since")
        with self.assertRaises(QmpError):
            self.export()
        self.lab.run("qemu-img", "convert", "-f", kind, "-O", "raw", self.image, "copy.raw")    # others may read it
        self.read_only(False)
        self.assertEqual(self.bitmap()["count"], 128 * KiB)
        self.write(5)
        self.assertEqual(self.bitmap()["count"], 192 * KiB)
        self.kill()
        self.start(kind)
        bitmap = self.bitmap()
        self.assertIsNone(bitmap.get("inconsistent"))
        self.assertGreaterEqual(bitmap["count"], 192 * KiB)
        self.client.execute("block-dirty-bitmap-clear", node="disk", name="since")

    def test_a_bitmap_of_a_raw_image_goes_on(self):
        self.goes_on("raw")

    def test_a_bitmap_of_a_qcow2_image_goes_on(self):
        self.goes_on("qcow2")

    def killed_while_it_was_only_read(self, kind):
        self.start(kind)
        self.client.execute("block-dirty-bitmap-add", node="disk", name="since", persistent=True)
        self.write(1, 2)
        self.read_only(True)
        self.kill()
        self.start(kind)
        bitmap = self.bitmap()
        self.assertEqual((bitmap["count"], bitmap.get("inconsistent")), (128 * KiB, None))

    def test_killed_while_a_raw_image_was_only_read(self):
        self.killed_while_it_was_only_read("raw")

    def test_killed_while_a_qcow2_image_was_only_read(self):
        self.killed_while_it_was_only_read("qcow2")

    def test_content_is_the_same_after_many_turns(self):
        self.start("qcow2")
        for turn in range(6):
            self.write(turn, 20 + turn)
            self.read_only(True)
            self.lab.run("qemu-img", "check", "-q", "disk.qcow2")
            self.read_only(False)
        self.export()
        data = self.content()
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(30)
        self.lab.ended(self.daemon)
        self.lab.run("qemu-img", "check", "-q", "disk.qcow2")
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "disk.qcow2", "flat.raw")
        self.assertIsNone(first_difference((self.path / "flat.raw").read_bytes(), data))

    def test_an_image_that_others_read_cannot_be_written_again(self):
        self.start("qcow2")
        self.read_only(True)
        other = self.lab.start("qemu-nbd", "--read-only", "--persistent", "-k", str(self.path / "other.sock"), "-f", "qcow2", "disk.qcow2")
        processes.wait_for_socket(self.path / "other.sock", other)
        self.lab.run("nbdinfo", "--size", f"nbd+unix:///?socket={self.path / 'other.sock'}")     # it has the image once it answers
        with self.assertRaises(QmpError):
            self.read_only(False)
        nodes = {node["node-name"]: node for node in self.client.execute("query-named-block-nodes")}
        self.assertTrue(nodes["disk"]["ro"])
        self.lab.stop(other)
        self.read_only(False)
        self.write(3)

    def change(self, **options):
        self.options.update(options)
        self.client.execute("blockdev-reopen", options=[self.options])

    def test_refcounts_are_kept_again_once_an_image_that_was_only_read_is_written(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "disk.qcow2", DISK)
        self.start("qcow2")
        self.client.execute("blockdev-del", **{"node-name": "disk"})
        self.options["read-only"] = True
        self.client.execute("blockdev-add", **self.options)
        self.change(**{"lazy-refcounts": False})
        self.change(**{"read-only": False})
        self.write(1, 2, 40)
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(30)
        self.lab.ended(self.daemon)
        self.lab.run("qemu-img", "check", "-q", "disk.qcow2")

    def test_the_header_is_given_the_format_of_what_is_below_now(self):
        self.raw("old.raw", DISK)
        self.qcow2("new.qcow2", DISK)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "old.raw", "-F", "raw", "above.qcow2")
        self.start("qcow2")
        for driver, name in (("raw", "old.raw"), ("qcow2", "new.qcow2")):
            self.client.execute("blockdev-add", driver=driver, **{"node-name": name[:3]}, file={"driver": "file", "filename": name})
        above = {"driver": "qcow2", "node-name": "above", "file": {"driver": "file", "filename": "above.qcow2"}, "backing": "old"}
        self.client.execute("blockdev-add", **above)
        self.client.execute("blockdev-reopen", options=[{**above, "backing": "new"}])
        self.client.execute("change-backing-file", device="above", **{"image-node-name": "above", "backing-file": "new.qcow2"})
        info = json.loads(self.lab.run("qemu-img", "info", "-U", "--output=json", "above.qcow2").stdout)
        self.assertEqual((info["backing-filename"], info["backing-filename-format"]), ("new.qcow2", "qcow2"))

    def test_children_that_are_not_there_cannot_be_changed(self):
        self.start("qcow2")
        with self.assertRaisesRegex(QmpError, "data-file"):
            self.client.execute("blockdev-reopen", options=[{**self.options, "data-file": "other"}])
        self.assertTrue(self.client.execute("query-named-block-nodes"))

    def test_a_size_that_no_disk_can_have(self):
        self.start("raw")
        self.client.execute("blockdev-add", driver="memory", size=DISK, **{"node-name": "m"})
        self.client.execute("block-dirty-bitmap-add", node="m", name="b")
        with self.assertRaisesRegex(QmpError, "more than a disk can have"):
            self.client.execute("block_resize", size=2**63 - 1, **{"node-name": "m"})

    def test_an_empty_disk_however_large_is_resized_at_once(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "huge.qcow2", "1P")
        self.start("raw")
        self.client.execute("blockdev-add", driver="qcow2", file={"driver": "file", "filename": "huge.qcow2"}, **{"node-name": "huge"})
        for size in (DISK, 2**50):
            self.client.execute("block_resize", size=size, **{"node-name": "huge"})
        self.client.execute("blockdev-del", **{"node-name": "huge"})
        self.lab.run("qemu-img", "check", "-q", "huge.qcow2")

    def test_what_shows_a_disk_keeps_it_from_being_resized_below_its_bitmaps(self):
        self.start("raw")
        self.client.execute("blockdev-add", driver="raw", file="disk", **{"node-name": "window"})
        self.client.execute("block-dirty-bitmap-add", node="window", name="b")
        with self.assertRaisesRegex(QmpError, "window"):
            self.client.execute("block_resize", size=2 * DISK, **{"node-name": "disk"})
        self.client.execute("block-dirty-bitmap-remove", node="window", name="b")
        self.client.execute("block_resize", size=2 * DISK, **{"node-name": "disk"})

    def test_a_file_that_nobody_else_would_have_stays_below_a_window(self):
        self.start("raw")
        self.raw("other.img")
        self.client.execute("blockdev-add", driver="file", filename="other.img", **{"node-name": "other"})
        with self.assertRaisesRegex(QmpError, "nobody else would have the present one"):
            self.client.execute("blockdev-reopen", options=[{**self.options, "file": "other"}])
        self.write(4)

    def test_what_a_copy_on_read_filter_stands_on_is_not_changed_behind_its_back(self):
        self.start("qcow2")
        self.qcow2("other.qcow2", DISK)
        other = {"driver": "qcow2", "node-name": "other", "file": {"driver": "file", "filename": "other.qcow2"}}
        self.client.execute("blockdev-add", **other)
        above = {"driver": "copy-on-read", "node-name": "above", "file": "disk"}
        self.client.execute("blockdev-add", **above)
        with self.assertRaisesRegex(QmpError, "Cannot change the option 'file'"):
            self.client.execute("blockdev-reopen", options=[{**above, "file": "other"}])
        self.client.execute("blockdev-reopen", options=[above])
        self.client.execute("blockdev-del", **{"node-name": "above"})
        # One that was described inline has options of its own.
        inlined = {**above, "file": {**other, "node-name": "inner"}}
        self.client.execute("blockdev-del", **{"node-name": "other"})
        self.client.execute("blockdev-add", **inlined)
        inlined["file"]["detect-zeroes"] = "on"
        self.client.execute("blockdev-reopen", options=[inlined])
        nodes = {node["node-name"]: node for node in self.client.execute("query-named-block-nodes")}
        self.assertEqual(nodes["inner"]["detect_zeroes"], "on")

    def test_what_copies_when_it_is_read_cannot_be_used_above_an_image_that_is_only_read(self):
        self.start("qcow2")
        self.client.execute("blockdev-add", driver="copy-on-read", file="disk", **{"node-name": "above"})
        self.client.execute("blockdev-reopen", options=[{**self.options, "read-only": True}])
        export = {"type": "nbd", "id": "e", "name": "disk", "node-name": "above"}
        with self.assertRaisesRegex(QmpError, "Block node 'disk' is read-only"):
            self.client.execute("block-export-add", **export)
        self.client.execute("blockdev-reopen", options=[self.options])
        self.client.execute("block-export-add", **export)
        with self.assertRaisesRegex(QmpError, "Read-only block node 'disk' cannot support read-write users"):
            self.client.execute("blockdev-reopen", options=[{**self.options, "read-only": True}])
        self.assertEqual(len(self.content()), DISK)

    def test_a_window_of_a_size_that_others_may_change(self):
        """What it asks of its file is another then, and is asked at once."""
        self.start("qcow2")
        self.qcow2("overlay.qcow2", DISK)
        self.client.execute("blockdev-del", **{"node-name": "disk"})
        self.client.execute("blockdev-add", driver="file", filename="disk.qcow2", **{"node-name": "file"})
        window = {"driver": "raw", "node-name": "window", "file": "file", "read-only": True}
        self.client.execute("blockdev-add", **window)
        self.client.execute("blockdev-add", driver="qcow2", file="file", **{"node-name": "disk"})
        self.client.execute("block-export-add", type="nbd", id="disk", name="disk", writable=True, **{"node-name": "disk"})
        self.client.execute("blockdev-add", driver="qcow2", backing="window", file={"driver": "file", "filename": "overlay.qcow2"},
                            **{"node-name": "overlay", "read-only": True})
        with self.assertRaisesRegex(QmpError, "permissions 'resize' are both required by node 'disk'"):
            self.client.execute("blockdev-reopen", options=[{**window, "size": 64 * KiB}])
        self.client.execute("blockdev-del", **{"node-name": "overlay"})
        self.assertEqual(len(self.content()), DISK)

    def test_marks_go_on_after_a_reopening_that_failed(self):
        self.start("qcow2")
        self.raw("other.img")
        other = {"driver": "file", "node-name": "other", "filename": "other.img"}
        self.client.execute("blockdev-add", **other)
        self.client.execute("block-dirty-bitmap-add", node="disk", name="since", persistent=True)
        self.write(1)
        with self.assertRaises(QmpError):
            self.client.execute("blockdev-reopen", options=[{**self.options, "read-only": True}, {**other, "filename": "none.img"}])
        self.assertEqual(self.bitmap()["count"], 64 * KiB)
        self.write(5)
        self.kill()
        self.start("qcow2")
        self.assertEqual(self.bitmap()["count"], 128 * KiB)
        self.assertNotIn("inconsistent", self.bitmap())

    def test_a_wrong_option_is_told_before_anything_is_given_up(self):
        """An image that is only read for a moment could be taken by another meanwhile."""
        self.start("qcow2")
        self.raw("other.img")
        other = {"driver": "raw", "node-name": "other", "file": {"driver": "file", "filename": "other.img"}}
        self.client.execute("blockdev-add", **other)
        self.client.execute("block-dirty-bitmap-add", node="disk", name="since", persistent=True)
        self.write(1)
        read_only = {**self.options, "read-only": True}
        before = os.stat(self.path / self.image).st_mtime_ns
        for wrong in ([{**read_only, "overlap-check": "none"}], [{**read_only, "cache-size": -1}], [{**read_only, "backing": "none"}],
                      [{**read_only, "file": "other"}], [{**read_only, "file": {**self.options["file"], "locking": "off"}}],
                      [read_only, {**other, "offset": -1}], [read_only, {**other, "driver": "qcow2"}], [read_only, {**other, "file": "none"}]):
            with self.subTest(wrong=wrong):
                with self.assertRaises(QmpError):
                    self.client.execute("blockdev-reopen", options=wrong)
                self.assertEqual(os.stat(self.path / self.image).st_mtime_ns, before)

    def test_what_is_told_of_a_node_that_could_not_be_flushed_when_it_went(self):
        self.start("qcow2")
        self.qcow2("other.qcow2", DISK)
        below = {"driver": "fault", "rules": [{"operation": "flush", "errno": 5}], "file": {"driver": "file", "filename": "other.qcow2"}}
        self.client.execute("blockdev-add", driver="qcow2", **{"node-name": "faulty"}, file=below)
        self.client.execute("block-export-add", type="nbd", id="e", **{"node-name": "faulty", "name": "faulty", "writable": True})
        handle = self.disk("faulty")
        handle.pwrite(b"w" * 4 * KiB, 0)
        self.client.execute("block-export-del", id="e", mode="hard")
        self.client.wait_event("BLOCK_EXPORT_DELETED", id="e")
        self.client.execute("blockdev-del", **{"node-name": "faulty"})
        self.assertNotIn("faulty", [node["node-name"] for node in self.client.execute("query-named-block-nodes")])
        self.client.wait_event("TRACKING_STORE_STATUS", node="faulty")
        self.assertIn("Input/output error", self.client.events[-1]["data"]["message"])

    def test_what_another_backing_node_shows_is_marked(self):
        """As if it had been written: where the image has nothing of its own, and in all that stand on it."""
        for name, byte in (("a", 0x11), ("b", 0x22)):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", str(DISK))
            self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -P {byte} 0 {DISK}", f"{name}.qcow2")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", str(DISK))
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "top.qcow2", str(DISK))
        self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -P 7 1M 1M", "-c", "write -z 2M 1M", "disk.qcow2")
        self.start("qcow2")
        self.client.execute("blockdev-del", **{"node-name": "disk"})
        backings = [{"driver": "qcow2", "node-name": name, "read-only": True, "file": {"driver": "file", "filename": f"{name}.qcow2"}}
                    for name in "ab"]
        disk = {**self.options, "backing": "a"}
        top = {"driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": "top.qcow2"}, "backing": "disk"}
        for options in (*backings, disk, top):
            self.client.execute("blockdev-add", **options)
        for node in ("disk", "top"):
            self.client.execute("block-dirty-bitmap-add", node=node, name="since", persistent=True)
        def counts():
            nodes = self.client.execute("query-named-block-nodes")
            return [next(n for n in nodes if n["node-name"] == name)["dirty-bitmaps"][0]["count"] for name in ("disk", "top")]
        self.client.execute("blockdev-reopen", options=[disk])
        self.assertEqual(counts(), [0, 0])
        self.client.execute("blockdev-reopen", options=[{**disk, "backing": "b"}])
        self.assertEqual(counts(), [DISK - 2 * MiB, DISK])
        self.kill()
        self.start("qcow2")                                       # "disk" with nothing below it
        self.assertGreaterEqual(self.bitmap()["count"], DISK - 2 * MiB)

    def test_what_stands_on_a_window_that_moves_is_marked(self):
        self.raw("below.img", 2 * DISK)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", str(DISK))
        self.start("qcow2")
        self.client.execute("blockdev-del", **{"node-name": "disk"})
        window = {"driver": "raw", "node-name": "window", "file": {"driver": "file", "filename": "below.img"}, "size": DISK, "read-only": True}
        self.client.execute("blockdev-add", **window)
        self.client.execute("blockdev-add", **{**self.options, "backing": "window"})
        self.client.execute("block-dirty-bitmap-add", node="disk", name="since", persistent=True)
        self.client.execute("blockdev-reopen", options=[{**window, "offset": DISK}])
        self.assertEqual(self.bitmap()["count"], DISK)

    def test_another_backing_node_of_an_image_that_is_written_again(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", str(DISK))
        self.start("qcow2")
        self.client.execute("blockdev-add", driver="memory", size=DISK, **{"node-name": "below"})
        self.client.execute("block-dirty-bitmap-add", node="disk", name="since", persistent=True)
        self.read_only(True)
        self.assertEqual(self.bitmap()["count"], 0)
        self.client.execute("blockdev-reopen", options=[{**self.options, "backing": "below"}])
        self.assertEqual(self.bitmap()["count"], DISK)

    def test_an_image_that_was_not_closed_is_repaired_before_it_is_written(self):
        """A base that a commit was writing to when the daemon was killed: below its disk it is only read again, until the next commit."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "disk.qcow2", str(DISK))
        self.start("qcow2")
        self.write(1, 20, 40)
        self.export()
        handle = self.disk()
        for granule in (2, 60, 100):
            handle.pwrite(b"v" * 64 * KiB, granule * 64 * KiB)
        handle.flush()
        self.kill()
        self.assertEqual(self.lab.run("qemu-img", "info", "--output=json", self.image).stdout.count('"dirty-flag": true'), 1)
        self.options["read-only"] = True
        (self.path / "qmp.sock").unlink()
        (self.path / "nbd.sock").unlink()
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "c",
                                     "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--blockdev", json.dumps(self.options))
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()
        self.read_only(False)
        self.write(3, 50, 101, 127)                      # new clusters, none of those that are in use
        self.export()
        content = self.content("disk")
        for granule in range(DISK // (64 * KiB)):
            wanted = b"v" if granule in (2, 60, 100) else b"w" if granule in (1, 20, 40, 3, 50, 101, 127) else b"\0"
            self.assertEqual(content[granule * 64 * KiB:][:4 * KiB], wanted * 4 * KiB, granule)
        self.client.execute("quit")
        self.assertEqual(self.daemon.wait(30), 0)
        self.lab.run("qemu-img", "check", self.image)


if __name__ == "__main__":
    unittest.main()
