"""Layers that keep internal snapshots: what these read from below is not taken away, whatever takes layers out of the chain."""
import json
import unittest

from bed import FAILED
from snapshot_bed import SIZE, SnapshotBed

LAYERS = ("base", "mid", "top")


class Internal(SnapshotBed):
    """base <- mid <- top, of which one keeps `inside`; all were written to since."""

    def begin(self, keeps="top", live=False):
        self.setUp()
        below = []
        for seed, name in enumerate(LAYERS, 1):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *below, f"{name}.qcow2", SIZE)
            below = ["-b", f"{name}.qcow2", "-F", "qcow2"]
            if name != "top":
                self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -q -P {seed} 0 {4 // seed}M", f"{name}.qcow2")
        self.lab.run("qemu-img", "snapshot", "-c", "inside", f"{keeps}.qcow2")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 3 64k 1M", f"{keeps}.qcow2")
        self.disk, self.image = "top.qcow2", f"{keeps}.qcow2"
        self.lab.env.pop("TIDEMARK_QMP", None)
        if live:
            self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
            self.serve(f"{self.path}/top.qcow2=vda")
            self.disk = "vda"

    def inside(self):
        self.lab.run("qemu-img", "convert", "-U", "-O", "raw", "-l", "inside", self.image, "inside.raw")
        return (self.path / "inside.raw").read_bytes()

    def state(self):
        return self.inside(), self.flat("top.qcow2"), self.chain("top.qcow2")

    def assert_refused(self, *words):
        before = self.state()
        said = self.fails(*(self.disk if word == "DISK" else word for word in words), expect=FAILED)
        self.assertIn(f"{self.image}' keeps the internal snapshot 'inside'", said)
        self.assertIn("delete it first", said)
        self.assertEqual([one == other for one, other in zip(before, self.state())], [True] * 3)

    OF_THE_TOP = [("snapshot", "delete", "DISK", "1"), ("snapshot", "delete", "DISK", "2", "1"), ("chain", "pull", "DISK", "1"),
                  ("snapshot", "delete", "DISK", "1", "--way", "commit"), ("chain", "remove", "DISK", "1"), ("chain", "commit", "DISK", "0"),
                  ("chain", "rebase", "DISK", "base.qcow2"), ("chain", "rebase", "DISK", "")]

    def test_refused(self):
        for live in (False, True):
            for words in self.OF_THE_TOP:
                with self.subTest(live=live, words=words):
                    self.begin(live=live)
                    self.assert_refused(*words)

    def test_refused_in_the_middle(self):
        for live in (False, True):
            for words in (("chain", "commit", "DISK", "1"), ("chain", "commit", "DISK", "0", "1"), ("chain", "pull", "DISK", "2"),
                          ("snapshot", "delete", "DISK", "2"), ("chain", "rebase", "DISK", "", "--layer", "1")):
                with self.subTest(live=live, words=words):
                    self.begin("mid", live)
                    self.assert_refused(*words)

    def test_what_is_below_is_committed(self):
        for live in (False, True):
            with self.subTest(live=live):
                self.begin(live=live)
                before, disk = self.inside(), self.flat("top.qcow2")
                self.run_tidemark("chain", "commit", self.disk, "1")
                self.assertEqual((self.inside() == before, self.flat("top.qcow2") == disk), (True, True))
                self.assertEqual(self.chain("top.qcow2"), ["top.qcow2", "base.qcow2"])

    def test_those_of_the_base_stay(self):
        for live in (False, True):
            with self.subTest(live=live):
                self.begin("base", live)
                before, disk = self.inside(), self.flat("top.qcow2")
                self.run_tidemark("chain", "commit", self.disk, "0", "1")
                self.assertEqual((self.inside() == before, self.flat("base.qcow2") == disk), (True, True))

    def test_images(self):
        self.begin()
        self.assert_refused("image", "rebase", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        self.assert_refused("image", "rebase", "-b", "", "top.qcow2")
        self.assert_refused("image", "commit", "top.qcow2")
        self.assert_refused("image", "commit", "-d", "-b", "base.qcow2", "top.qcow2")
        self.run_tidemark("image", "rebase", "-u", "-b", f"{self.path}/mid.qcow2", "-F", "qcow2", "top.qcow2")
        self.begin("mid")
        self.assert_refused("image", "commit", "-b", "base.qcow2", "top.qcow2")
        self.run_tidemark("image", "commit", "top.qcow2")

    def test_once_it_is_deleted(self):
        self.begin()
        disk = self.flat("top.qcow2")
        self.run_tidemark("snapshot", "delete", "--internal", "top.qcow2", "inside")
        self.assertEqual(len(json.loads(self.snapshot("delete", "top.qcow2", "2", "1", "--json"))), 2)
        self.assertEqual(self.flat("top.qcow2") == disk, True)


if __name__ == "__main__":
    unittest.main()
