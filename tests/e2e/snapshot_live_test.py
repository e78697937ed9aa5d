"""tidemark snapshot of a daemon's disks, external and internal; several at one moment or none."""
import json
import os
import random
import subprocess
import time
import unittest

from bed import FAILED
from snapshot_bed import SnapshotBed


class Live(SnapshotBed):
    def begin(self):
        self.make("vda", "vdb")
        self.serve(f"{self.path}/vda.qcow2=vda", f"{self.path}/vdb.qcow2=vdb")
        self.client = self.qmp()

    def shown(self):
        return {export["id"]: export["node-name"] for export in self.client.execute("query-block-exports")}

    def nodes(self):
        return sorted(node["node-name"] for node in self.client.execute("query-named-block-nodes") if node["node-name"][0] != "#")

    def test_one_after_the_other_by_the_disk_s_name(self):
        self.begin()
        states = []
        for seed, name in enumerate(("monday", "tuesday"), 2):
            states.insert(0, self.content("vda"))
            self.snapshot("create", "vda", "--name", name)
            self.guest_writes("vda", seed)
        self.assertEqual(self.chain("vda.tuesday.qcow2"), ["vda.tuesday.qcow2", "vda.monday.qcow2", "vda.qcow2"])
        self.assertEqual([self.flat(name) == state for name, state in zip(("vda.monday.qcow2", "vda.qcow2"), states)], [True, True])
        listed = self.snapshot("list", "vda")
        self.assertIn("vda[2] vda.qcow2 <- vda[1] vda.monday.qcow2 <- vda[0] vda.tuesday.qcow2", listed)

    def test_two_disks_at_one_moment_or_neither(self):
        self.begin()
        told = json.loads(self.snapshot("create", "vda", "vdb=elsewhere.qcow2", "--name", "x", "--json"))
        self.assertEqual(self.shown(), {"vda": told["disks"][0]["node-name"], "vdb": "elsewhere"})
        before = self.shown(), self.nodes(), self.names()
        for words in (["vda", "none"], ["vda", "vdb=nowhere/x.qcow2"], ["vda=y.qcow2", "vdb=y.qcow2"], ["vda=vda.qcow2"], ["vda=y.qcow2", "vda=z.qcow2"]):
            self.snapshot("create", *words, expect=FAILED)
            self.assertEqual((self.shown(), self.nodes(), self.names()), before, words)

    def test_two_at_once(self):
        self.begin()
        before = self.content("vda")
        for n in range(6):
            both = [self.lab.start(self.tidemark, "snapshot", "create", "vda", "--name", f"s{n}", stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True) for _ in range(2)]
            ends = sorted(self.end_of(process)[0] for process in both)
            self.assertEqual(ends, [0, FAILED])
        self.assertEqual(len(self.json("chain", "show", "vda")), 7)
        self.assertEqual(self.content("vda") == before, True)

    def test_deleted_ones_leave_all_others(self):
        for way in ("auto", "pull", "commit"):
            for gone in ([1], [2], [3], [1, 3], [1, 2, 3]):
                with self.subTest(way=way, gone=gone):
                    self.setUp()
                    self.begin()
                    states = []
                    for seed, name in enumerate(("a", "b", "c"), 2):
                        states.insert(0, self.content("vda"))
                        self.snapshot("create", "vda", "--name", name)
                        self.guest_writes("vda", seed)
                    states.insert(0, self.content("vda"))
                    self.snapshot("delete", "vda", *(f"vda[{n}]" for n in gone), "--way", way)
                    self.assertEqual(self.content("vda") == states[0], True)
                    self.assertEqual(self.client.execute("query-jobs"), [])
                    top = [layer["filename"] for layer in self.json("chain", "show", "vda")][0]
                    self.client.execute("quit")
                    self.daemon.wait(20)
                    chain = self.chain(top)
                    wanted = [state for n, state in enumerate(states) if n not in gone]
                    self.assertEqual([self.flat(name) == state for name, state in zip(chain, wanted, strict=True)], [True] * len(wanted))

    def test_killed_while_it_deletes(self):
        for way, gone in (("pull", "1"), ("commit", "1"), ("commit", "2")):
            for killed in ("command", "daemon"):
                with self.subTest(way=way, gone=gone, killed=killed):
                    self.setUp()
                    self.begin()
                    for seed, name in enumerate(("a", "b"), 2):
                        self.snapshot("create", "vda", "--name", name)
                        self.guest_writes("vda", seed)
                    before = self.content("vda")
                    process = self.lab.start(self.tidemark, "snapshot", "delete", "vda", gone, "--way", way, "--speed", "64K",
                                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                    self.until(lambda: self.client.execute("query-jobs"), "a job")
                    time.sleep(random.random() * 0.3)
                    if killed == "daemon":
                        self.daemon.kill()
                        self.daemon.wait(20)
                        self.assertEqual(self.end_of(process)[0], FAILED)
                        self.assertEqual(self.flat("vda.b.qcow2") == before, True)
                        continue
                    process.kill()
                    self.end_of(process)
                    self.assertEqual(self.content("vda") == before, True)
                    job, = self.client.execute("query-jobs")
                    self.run_tidemark("job", "cancel", job["id"])
                    self.until(lambda: self.client.execute("query-jobs") == [], "it was cancelled, and nobody has to dismiss it")
                    self.snapshot("delete", "vda", gone, "--way", way)
                    self.assertEqual(self.content("vda") == before, True)
                    self.assertEqual(len(self.json("chain", "show", "vda")), 2)

    def test_a_stale_top_shows_the_disk(self):
        """The file that was the disk before its snapshot was deleted by a commit, taken for the disk by mistake."""
        self.begin()
        self.snapshot("create", "vda", "--name", "x")
        self.guest_writes("vda", 5)
        told = self.json("snapshot", "delete", "vda", "1", "--way", "commit")
        self.assertEqual(os.path.basename(told["top"]), "vda.qcow2")
        self.assertNotIn("vda.x", self.nodes())
        now = self.content("vda")
        self.assertEqual(self.flat("vda.x.qcow2") == now, True)

    def test_internal_ones(self):
        self.begin()
        self.snapshot("create", "--internal", "--name", "a", "vda", "vdb")
        self.assertIn("already exists", self.snapshot("create", "--internal", "--name", "a", "vdb", expect=FAILED))
        self.assertRegex(self.snapshot("list", "vda"), r"1 a +internal +2\d\d\d-")
        self.snapshot("delete", "--internal", "vda", "a")
        self.assertIn("keeps no snapshot 'a'", self.snapshot("delete", "--internal", "vda", "a", expect=FAILED))
        told = json.loads(self.snapshot("list", "vda", "vdb", "--json"))
        self.assertEqual([[one["name"] for one in disk["internal"]] for disk in told], [[], ["a"]])

    def test_bitmaps(self):
        self.begin()
        self.run_tidemark("bitmap", "add", "vda", "goes", "--follows-disk")
        self.run_tidemark("bitmap", "add", "vda", "stays")
        told = json.loads(self.snapshot("create", "vda", "--name", "x", "--json"))
        self.assertEqual(told["bitmaps-left"], ["vda: stays"])
        told = self.json("snapshot", "delete", "vda", "1", "--way", "commit")
        self.assertNotIn("bitmaps-left", told)
        self.assertEqual(sorted(one["name"] for one in self.json("bitmap", "list", "vda")), ["goes", "stays"])

    def test_through_a_filter(self):
        self.begin()
        self.client.execute("object-add", **{"qom-type": "throttle-group", "id": "g"})
        self.client.execute("blockdev-add", driver="throttle", file="vda", **{"node-name": "slow", "throttle-group": "g"})
        self.client.execute("block-export-add", type="nbd", id="web", name="web", **{"node-name": "slow"}, writable=True)
        before = self.content("web")
        self.snapshot("create", "web", "--name", "x")
        self.assertEqual(self.chain("web.x.qcow2"), ["web.x.qcow2", "vda.qcow2"])
        self.guest_writes("web", 3)
        self.assertEqual(self.flat("vda.qcow2") == before, True)

    def test_no_room(self):
        small = self.path / "small"
        small.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True, text=True)
        if mounted.returncode != 0:
            self.skipTest(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", small], check=True)
        self.begin()
        before = self.shown(), self.nodes(), self.names()
        self.assertIn("No space left", self.snapshot("create", "vda", "vdb=small/x.qcow2", expect=FAILED))
        self.assertEqual((self.shown(), self.nodes(), self.names(), list(small.iterdir())), (*before, []))


if __name__ == "__main__":
    unittest.main()
