"""Exports in transactions: clients find them when all has taken effect, with what the disk held at that moment, and nothing is
left of those that were undone."""
import unittest

import nbd
from bed import KiB, MiB, Bed
from lab.qmp import QmpError

DISK = 8 * MiB


def action(kind, **data):
    return {"type": kind, "data": {key.replace("_", "-"): value for key, value in data.items()}}


def export(name, node="disk", **more):
    return action("block-export-add", type="nbd", id=name, node_name=node, name=name, **more)


class Exports(Bed):
    def setUp(self):
        super().setUp()
        self.raw("disk.raw", DISK)
        self.serve("disk.raw=disk")
        self.monitor = self.qmp()

    def transaction(self, *actions, **properties):
        self.monitor.execute("transaction", actions=list(actions), **({"properties": properties} if properties else {}))

    def refused(self, *actions, **properties):
        with self.assertRaises(QmpError) as refused:
            self.transaction(*actions, **properties)
        return str(refused.exception)

    def exports(self):
        return sorted(entry["id"] for entry in self.monitor.execute("query-block-exports"))

    def assert_not_found(self, name):
        with self.assertRaises(nbd.Error):
            self.disk(name)

    def test_shows_the_disk_at_the_point_of_a_job_that_began_with_it(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "disk.raw", "fleece.qcow2")
        self.monitor.execute("blockdev-add", driver="qcow2", **{"node-name": "fleece", "backing": "disk"},
                             file={"driver": "file", "filename": "fleece.qcow2"})
        self.monitor.execute("block-dirty-bitmap-add", node="disk", name="since")
        writer = self.disk()
        writer.pwrite(b"\x5a" * (4 * KiB), 200 * KiB)
        before = self.content()
        self.transaction(action("blockdev-backup", job_id="keep", device="disk", target="fleece", sync="none"),
                         action("block-dirty-bitmap-disable", node="disk", name="since"),
                         export("point", "fleece"), export("changed", bitmaps=["since"]))
        for block in range(0, 64, 3):
            writer.pwrite(b"\xa5" * (4 * KiB), block * 4 * KiB)
        self.assertEqual(self.content("point"), before)
        self.assertNotEqual(self.content(), before)
        reader = nbd.NBD()
        reader.add_meta_context("qemu:dirty-bitmap:since")
        reader.connect_uri(f"nbd+unix:///changed?socket={self.path / 'nbd.sock'}")
        dirty = []
        reader.block_status(DISK, 0, lambda context, offset, entries, error: dirty.extend(entries))
        self.assertEqual(dirty, [192 * KiB, 0, 64 * KiB, 1, DISK - 256 * KiB, 0])
        reader.shutdown()

    def test_is_not_there_when_another_action_fails(self):
        self.assertIn("Abort", self.refused(export("one"), export("two"), action("abort")))
        self.assertEqual(self.exports(), ["disk"])
        for name in ("one", "two"):
            self.assert_not_found(name)
        self.transaction(export("one"), export("two"))
        self.assertEqual(self.exports(), ["disk", "one", "two"])
        self.assertEqual(self.content("two"), self.content())
        self.assertFalse([event for event in self.monitor.events if event["event"] == "BLOCK_EXPORT_DELETED"])

    def test_what_cannot_be_done_undoes_the_others(self):
        add = action("block-dirty-bitmap-add", node="disk", name="b", disabled=True)
        for bad, why in ((export("disk"), "Block export id 'disk' is already in use"),
                         (export("one", "nowhere"), "Cannot find device='' nor node-name='nowhere'"),
                         (export("one", bitmaps=["none"]), "Bitmap 'none' is not found"),
                         (action("block-export-add", type="nbd", id="other", node_name="disk", name="disk"),
                          "NBD server already has export named 'disk'")):
            self.assertIn(why, self.refused(add, bad))
        self.assertIn("Block export id 'one' is already in use", self.refused(add, export("one"), export("one")))
        self.assertEqual(self.exports(), ["disk"])
        self.transaction(add, export("one", bitmaps=["b"]))
        self.assertEqual(self.exports(), ["disk", "one"])

    def test_an_overlay_of_the_same_transaction_is_undone_with_its_export(self):
        self.raw("idle.raw", DISK)
        self.monitor.execute("blockdev-add", driver="raw", **{"node-name": "idle"}, file={"driver": "file", "filename": "idle.raw"})
        snapshot = {"type": "blockdev-snapshot-sync",
                    "data": {"node-name": "idle", "snapshot-node-name": "over", "snapshot-file": "over.qcow2"}}
        self.assertIn("Abort", self.refused(snapshot, export("one", "over"), action("abort")))
        self.assertEqual(self.exports(), ["disk"])
        self.assertFalse((self.path / "over.qcow2").exists())
        self.transaction(snapshot, export("one", "over"))
        self.assertEqual(self.content("one"), (self.path / "idle.raw").read_bytes())

    def test_has_no_job_to_be_grouped(self):
        why = self.refused(export("one"), **{"completion-mode": "grouped"})
        self.assertIn("'block-export-add' does not support transaction property completion-mode = grouped", why)
        self.assertEqual(self.exports(), ["disk"])

    def test_needs_a_server(self):
        self.monitor.execute("nbd-server-stop")
        self.assertIn("NBD server not running", self.refused(export("one")))


if __name__ == "__main__":
    unittest.main()
