"""Disks that are shown through filters: jobs on the images below them, after which the filters are above what is the disk then."""
import json
import os
import unittest

from bed import FAILED
from snapshot_bed import SnapshotBed


class Throttled(SnapshotBed):
    """vda <- vda.a <- vda.b, which clients see through a throttle, and that through another filter."""

    def begin(self, *filters):
        self.setUp()
        self.make("vda")
        self.serve(f"{self.path}/vda.qcow2=first")
        self.client = self.qmp()
        self.client.execute("block-export-del", id="first", mode="hard")
        self.client.wait_event("BLOCK_EXPORT_DELETED", id="first")
        node = self.client.execute("query-named-block-nodes", flat=True)
        image = next(one["node-name"] for one in node if one["drv"] == "qcow2")
        self.client.execute("object-add", **{"qom-type": "throttle-group", "id": "g"})
        self.client.execute("blockdev-add", driver="throttle", file=image, **{"node-name": "slow", "throttle-group": "g"})
        for name in filters:
            self.client.execute("blockdev-add", driver=name, file="slow", **{"node-name": name})
        self.client.execute("block-export-add", type="nbd", id="vda", name="vda", writable=True, **{"node-name": (*filters, "slow")[0]})
        for seed, name in enumerate(("a", "b"), 2):
            self.snapshot("create", "vda", "--name", name)
            self.guest_writes("vda", seed)
        self.before = self.content("vda")

    def assert_disk(self, *files):
        self.assertEqual([os.path.basename(layer["filename"]) for layer in self.json("chain", "show", "vda")], list(files))
        self.assertEqual(self.content("vda") == self.before, True)
        self.assertEqual(self.client.execute("query-jobs"), [])
        nodes = {node["node-name"]: node for node in self.client.execute("query-named-block-nodes", flat=True)}
        shown, drivers = self.client.execute("query-block-exports")[0]["node-name"], []
        for _ in range(3):
            drivers.append(nodes[shown]["drv"])
            shown = nodes[shown]["children"][0]["node-name"]
        self.assertEqual(drivers, ["copy-on-read", "throttle", "qcow2"])
        self.guest_writes("vda", 9)
        self.assertEqual(self.flat(files[0]) == self.content("vda"), True)

    def test_layers_are_taken_out(self):
        for words, left in ((["chain", "commit", "vda", "0"], ["vda.a.qcow2", "vda.qcow2"]),
                            (["chain", "commit", "vda", "1"], ["vda.b.qcow2", "vda.qcow2"]),
                            (["chain", "commit", "vda", "0", "1"], ["vda.qcow2"]),
                            (["chain", "pull", "vda", "1"], ["vda.b.qcow2", "vda.qcow2"]),
                            (["snapshot", "delete", "vda", "2", "--way", "commit"], ["vda.b.qcow2", "vda.qcow2"]),
                            (["snapshot", "delete", "vda", "1", "2", "--way", "commit"], ["vda.qcow2"])):
            with self.subTest(words=words):
                self.begin("copy-on-read")
                self.run_tidemark(*words)
                self.assert_disk(*left)

    def test_a_copy_does_not_take_its_guests_turn(self):
        self.begin("copy-on-read")
        self.assertIn("shown through filter 'copy-on-read'", self.run_tidemark("chain", "copy", "vda", "copy.qcow2", expect=FAILED).stderr)
        self.assertFalse((self.path / "copy.qcow2").exists())
        self.assert_disk("vda.b.qcow2", "vda.a.qcow2", "vda.qcow2")

    def test_a_name_alone_is_changed(self):
        self.begin("copy-on-read")
        self.lab.run("qemu-img", "convert", "-U", "-O", "qcow2", "vda.a.qcow2", "same.qcow2")
        self.run_tidemark("chain", "rebase", "vda", "same.qcow2", "--unsafe")
        self.assertEqual(self.chain("vda.b.qcow2"), ["vda.b.qcow2", "same.qcow2"])

    def test_internal_snapshots(self):
        self.begin()
        self.snapshot("create", "vda", "--internal", "--name", "inside")
        self.assertIn("inside", self.snapshot("list", "vda"))
        self.guest_writes("vda", 9)
        self.lab.run("qemu-img", "convert", "-U", "-O", "raw", "-l", "inside", "vda.b.qcow2", "inside.raw")
        self.assertEqual((self.path / "inside.raw").read_bytes() == self.before, True)
        self.snapshot("delete", "--internal", "vda", "inside")
        told = json.loads(self.snapshot("list", "vda", "--json"))
        self.assertEqual(told[0]["internal"], [])


if __name__ == "__main__":
    unittest.main()
