"""External snapshots of disks in use: what was flushed is below the overlay, writers go on, nothing is lost when the daemon is
killed around it, and bitmaps stay with the image that they are of."""
import json
import os
import random
import signal
import threading
import unittest

import nbd
from bed import KiB, MiB, Bed, first_difference
from lab.qmp import QmpError

DISK = 8 * MiB


class Writer(threading.Thread):
    """Writes blocks of a pattern, each flushed now and then, until it is told to end or the daemon is gone.

    `written` is what a block may hold, `flushed` what it held when the last flush that succeeded began.
    """

    def __init__(self, handle, seed):
        super().__init__(daemon=True)
        self.handle, self.rng = handle, random.Random(seed)
        self.written, self.flushed = {}, {}
        self.ending, self.error = threading.Event(), None
        self.busy = threading.Event()

    def run(self):
        try:
            while not self.ending.is_set():
                for _ in range(8):
                    block, byte = self.rng.randrange(DISK // (4 * KiB)), self.rng.randrange(1, 256)
                    self.written.setdefault(block, []).append(byte)
                    self.handle.pwrite(bytes([byte]) * (4 * KiB), block * 4 * KiB)
                done = {block: bytes_[-1] for block, bytes_ in self.written.items()}
                self.handle.flush()
                self.flushed = done
                self.busy.set()
        except nbd.Error as error:
            self.error = error

    def end(self):
        self.ending.set()
        self.join(30)


class Snapshots(Bed):
    def begin(self, *bitmaps):
        self.qcow2("disk.qcow2", DISK)
        self.serve("disk.qcow2=disk")
        self.monitor = self.qmp()
        for name in bitmaps:
            self.monitor.execute("block-dirty-bitmap-add", node="disk", name=name, persistent=True)

    def snapshot(self, below, name):
        self.monitor.execute("blockdev-snapshot-sync", **{"node-name": below, "snapshot-file": f"{name}.qcow2", "snapshot-node-name": name})

    def read_chain(self, top):
        """The content of an image with all that is below it."""
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, "flat.raw")
        data = (self.path / "flat.raw").read_bytes()
        (self.path / "flat.raw").unlink()
        return data

    def check_images(self, *names):
        for name in names:
            self.lab.run("qemu-img", "check", "-q", name)

    def assert_holds(self, data, writer):
        """Every block that was flushed is as then, or as it was written later."""
        for block, byte in writer.flushed.items():
            there = data[block * 4 * KiB:(block + 1) * 4 * KiB]
            later = writer.written[block]
            allowed = later[len(later) - 1 - later[::-1].index(byte):]
            self.assertTrue(any(there == bytes([one]) * (4 * KiB) for one in allowed), f"block {block} is lost")

    def test_writers_go_on(self):
        self.begin()
        writers = [Writer(self.disk(), seed) for seed in (1,)]
        for writer in writers:
            writer.start()
        below = "disk"
        for name in ("s1", "s2", "s3"):
            writers[0].busy.clear()
            self.assertTrue(writers[0].busy.wait(30))
            self.snapshot(below, name)
            below = name
        for writer in writers:
            writer.end()
            self.assertIsNone(writer.error)
        data = self.content()
        self.assert_holds(data, writers[0])
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(30)
        self.lab.ended(self.daemon)
        self.check_images("disk.qcow2", "s1.qcow2", "s2.qcow2", "s3.qcow2")
        self.assertIsNone(first_difference(self.read_chain("s3.qcow2"), data))

    def test_what_is_below_stays(self):
        self.begin()
        self.change(seed=3)
        before = self.content()
        self.snapshot("disk", "over")
        # Nobody writes to it any more: others may read it.
        self.assertIsNone(first_difference(self.read_chain("disk.qcow2"), before))
        self.change(seed=4)
        after = self.content()
        self.assertIsNotNone(first_difference(after, before))
        self.assertIsNone(first_difference(self.read_chain("disk.qcow2"), before))
        self.check_images("disk.qcow2")
        node = next(node for node in self.monitor.execute("query-named-block-nodes") if node["node-name"] == "disk")
        self.assertTrue(node["ro"])

    def kill(self):
        os.kill(self.daemon.pid, signal.SIGKILL)
        self.daemon.wait(30)
        self.lab.ended(self.daemon)

    def flushed_data_survives_a_kill(self, seed, later):
        self.begin()
        writer = Writer(self.disk(), seed)
        writer.start()
        self.assertTrue(writer.busy.wait(30))
        self.snapshot("disk", "over")
        writer.busy.clear()
        if later:
            self.assertTrue(writer.busy.wait(30))
        self.kill()
        writer.end()
        self.lab.run("qemu-img", "check", "-q", "-r", "leaks", "over.qcow2", ok=(0, 3))
        self.assert_holds(self.read_chain("over.qcow2"), writer)

    def test_killed_at_once(self):
        self.flushed_data_survives_a_kill(1, False)

    def test_killed_when_the_overlay_is_written(self):
        self.flushed_data_survives_a_kill(2, True)

    def test_bitmaps_are_stored_below(self):
        self.begin("since")
        self.change(seed=5)
        before = next(node for node in self.monitor.execute("query-named-block-nodes") if node["node-name"] == "disk")["dirty-bitmaps"][0]
        self.snapshot("disk", "over")
        shown = json.loads(self.lab.run("qemu-img", "info", "--output=json", "disk.qcow2").stdout)
        self.assertEqual([bitmap["name"] for bitmap in shown["format-specific"]["data"]["bitmaps"]], ["since"])
        self.assertEqual(shown["format-specific"]["data"]["bitmaps"][0]["flags"], ["auto"])
        self.change(seed=6)
        node = next(node for node in self.monitor.execute("query-named-block-nodes") if node["node-name"] == "disk")
        self.assertEqual(node["dirty-bitmaps"][0]["count"], before["count"])
        self.fails("bitmap", "clear", "disk", "since")
        # Killed, it is as it was stored.
        self.kill()
        (self.path / "nbd.sock").unlink()
        (self.path / "qmp.sock").unlink()
        self.serve("disk.qcow2=disk")
        node = next(node for node in self.qmp().execute("query-named-block-nodes") if node["node-name"] == "disk")
        bitmap = node["dirty-bitmaps"][0]
        self.assertEqual((bitmap["name"], bitmap["count"], bitmap.get("inconsistent")), ("since", before["count"], None))

    def test_undone_nothing_is_left(self):
        self.begin("since")
        names = {path.name for path in self.path.iterdir()}
        action = {"node-name": "disk", "snapshot-file": "over.qcow2", "snapshot-node-name": "over"}
        with self.assertRaises(QmpError):
            self.monitor.execute("transaction", actions=[{"type": "blockdev-snapshot-sync", "data": action}, {"type": "abort", "data": {}}])
        self.assertEqual({path.name for path in self.path.iterdir()}, names)
        nodes = {node["node-name"]: node for node in self.monitor.execute("query-named-block-nodes")}
        self.assertNotIn("over", nodes)
        self.assertFalse(nodes["disk"]["ro"])
        self.assertTrue(nodes["disk"]["dirty-bitmaps"][0]["recording"])
        self.change(seed=7)

    def test_a_file_that_cannot_be_made_whole_is_removed(self):
        self.begin("since")
        # An image's header has no place for so long a name of what is below it.
        deep = self.path.joinpath(*["x" * 250] * 5)
        deep.mkdir(parents=True)
        self.raw(deep / "plain.img")
        self.monitor.execute("blockdev-add", driver="file", filename=str(deep / "plain.img"), **{"node-name": "far"})
        names = {path.name for path in self.path.iterdir()}
        action = {"node-name": "far", "snapshot-file": "over.qcow2", "snapshot-node-name": "over"}
        for mode in ("absolute-paths", None):
            with self.assertRaisesRegex(QmpError, "name too long"):
                self.monitor.execute("blockdev-snapshot-sync", **action, **({"mode": mode} if mode else {}))
            self.assertEqual({path.name for path in self.path.iterdir()}, names)
        # What was there before stays, whatever is in it.
        (self.path / "over.qcow2").write_bytes(b"x")
        with self.assertRaises(QmpError):
            self.monitor.execute("blockdev-snapshot-sync", **action)
        self.assertTrue((self.path / "over.qcow2").exists())

    def test_an_overlay_that_is_only_read_takes_no_writers(self):
        self.begin("since")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "over.qcow2", "8M")
        overlay = {"driver": "qcow2", "node-name": "over", "file": {"driver": "file", "filename": "over.qcow2"}}
        self.monitor.execute("blockdev-add", **overlay, **{"read-only": True})
        with self.assertRaisesRegex(QmpError, "Read-only block node 'over' cannot support read-write users"):
            self.monitor.execute("blockdev-snapshot", node="disk", overlay="over")
        self.change(seed=8)
        self.monitor.execute("blockdev-del", **{"node-name": "over"})


if __name__ == "__main__":
    unittest.main()
