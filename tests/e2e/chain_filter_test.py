"""Disks that are shown through filters: jobs on the images below them, after which the filters are above what is the disk then."""
import json
import os
import signal
import subprocess
import time
import unittest

from bed import KiB, processes
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

    def held(self, name):
        told = json.loads(self.lab.run("qemu-img", "map", "-U", "--output=json", name).stdout)
        return sum(part["length"] for part in told if part["depth"] == 0)

    def test_a_copy_does_not_take_its_guests_turn(self):
        for words in ([], ["--shallow"]):
            self.begin("copy-on-read")
            held = self.held("vda.b.qcow2")
            self.client.execute("qom-set", path="g", property="limits", value={"bps-total": 256 * KiB})
            begun = time.monotonic()
            self.run_tidemark("chain", "copy", "vda", "copy.qcow2", *words)
            self.assertLess(time.monotonic() - begun, 6)
            self.client.execute("qom-set", path="g", property="limits", value={"bps-total": 0})
            self.assertEqual(self.held("vda.b.qcow2"), held)
            self.assertEqual(self.flat("copy.qcow2") == self.before, True)
            self.assert_disk("vda.b.qcow2", "vda.a.qcow2", "vda.qcow2")

    def test_a_disk_goes_over_below_its_filters(self):
        self.begin("copy-on-read")
        self.run_tidemark("chain", "copy", "vda", "new.qcow2", "--pivot")
        self.assert_disk("new.qcow2")

    def test_a_disk_goes_over_when_it_is_told_to(self):
        self.begin("copy-on-read")
        told = json.loads(self.run_tidemark("chain", "copy", "vda", "new.qcow2", "--shallow", "--stay", "--json").stdout)
        self.run_tidemark("job", "complete", told["job"])
        self.until(lambda: self.client.execute("query-jobs") == [], "the disk has gone over")
        self.assert_disk("new.qcow2", "vda.a.qcow2", "vda.qcow2")

    def test_a_copy_that_another_ends(self):
        """Guests see the disk that was to go over through a filter."""
        self.begin("copy-on-read")
        process = self.lab.start(self.tidemark, "chain", "copy", "vda", "new.qcow2", "--pivot", "--speed", "64K",
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.until(lambda: self.client.execute("query-jobs"), "a job")
        processes.halt(process)
        job = self.client.execute("query-jobs")[0]["id"]
        self.client.execute("block-job-set-speed", device=job, speed=0)
        self.client.wait_event("BLOCK_JOB_READY", device=job)
        self.client.execute("block-job-cancel", device=job)
        self.until(lambda: all(one["status"] in ("concluded", "null") for one in self.client.execute("query-jobs")), "the end of the job")
        process.send_signal(signal.SIGCONT)
        err = process.communicate(timeout=30)[1]
        self.assertNotEqual(process.returncode, 0)
        self.assertIn("somebody else has ended the copy", err)
        self.assertFalse((self.path / "new.qcow2").exists())
        self.assert_disk("vda.b.qcow2", "vda.a.qcow2", "vda.qcow2")

    def test_a_copy_of_the_file(self):
        self.begin("copy-on-read")
        self.run_tidemark("chain", "pull", "vda", "1", "2")
        held = self.held("vda.b.qcow2")
        for number, disk in enumerate(("vda", "slow")):
            self.run_tidemark("copy", disk, f"copy{number}.qcow2")
            self.assertEqual(self.flat(f"copy{number}.qcow2") == self.before, True)
        self.assertEqual(self.held("vda.b.qcow2"), held)
        self.assert_disk("vda.b.qcow2")

    def test_any_filter_of_a_users(self):
        for words, left in ((["chain", "commit", "vda", "0"], ["vda.a.qcow2", "vda.qcow2"]),
                            (["chain", "copy", "vda", "new.qcow2", "--pivot"], ["new.qcow2"]),
                            (["snapshot", "create", "vda", "--name", "c"], ["vda.c.qcow2", "vda.b.qcow2", "vda.a.qcow2", "vda.qcow2"])):
            with self.subTest(words=words):
                self.begin()
                self.client.execute("block-export-del", id="vda", mode="hard")
                self.client.wait_event("BLOCK_EXPORT_DELETED", id="vda")
                self.client.execute("blockdev-add", driver="blkdebug", image="slow", **{"node-name": "faults"})
                self.client.execute("blockdev-add", driver="compress", file="faults", **{"node-name": "small"})
                self.client.execute("block-export-add", type="nbd", id="vda", name="vda", writable=True, **{"node-name": "small"})
                self.run_tidemark(*words)
                self.assertEqual([os.path.basename(layer["filename"]) for layer in self.json("chain", "show", "vda")], left)
                self.assertEqual(self.content("vda") == self.before, True)
                self.guest_writes("vda", 9)
                self.assertEqual(self.flat(left[0]) == self.content("vda"), True)

    def test_two_filters_side_by_side(self):
        """Guests see the disk through either, and a job on it is about both."""
        for words, left in ((["chain", "commit", "vda", "0"], ["vda.a.qcow2", "vda.qcow2"]),
                            (["chain", "pull", "vda", "1"], ["vda.b.qcow2", "vda.qcow2"]),
                            (["chain", "copy", "vda", "new.qcow2", "--pivot"], ["new.qcow2"]),
                            (["snapshot", "create", "vda", "--name", "c"], ["vda.c.qcow2", "vda.b.qcow2", "vda.a.qcow2", "vda.qcow2"])):
            with self.subTest(words=words):
                self.begin()
                image = next(node["children"][0]["node-name"] for node in self.client.execute("query-named-block-nodes", flat=True)
                             if node["node-name"] == "slow")
                self.client.execute("blockdev-add", driver="throttle", file=image, **{"node-name": "other", "throttle-group": "g"})
                self.client.execute("blockdev-add", driver="throttle", file="other", **{"node-name": "idle", "throttle-group": "g"})
                self.client.execute("block-export-add", type="nbd", id="vdb", name="vdb", writable=True, **{"node-name": "other"})
                self.run_tidemark(*words)
                self.assertEqual([os.path.basename(layer["filename"]) for layer in self.json("chain", "show", "vda")], left)
                self.guest_writes("vdb", 9)
                self.guest_writes("vda", 8)
                self.assertEqual(self.content("vda") == self.content("vdb"), True)
                self.assertEqual(self.flat(left[0]) == self.content("vda"), True)

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
