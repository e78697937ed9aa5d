"""tidemark snapshot of files, external and internal; several at one moment or none; and the guide's commands."""
import json
import os
import random
import re
import subprocess
import time
import unittest

from bed import FAILED, processes
from snapshot_bed import SIZE, SnapshotBed


class Files(SnapshotBed):
    def setUp(self):
        super().setUp()
        self.make("vda", "vdb")
        self.offline()

    def test_external_ones_of_two_disks(self):
        before = self.flat("vda.qcow2")
        told = json.loads(self.snapshot("create", "vda.qcow2", "vdb.qcow2=other.qcow2", "--name", "monday", "--json"))
        self.assertEqual([disk["overlay"] for disk in told["disks"]], ["vda.monday.qcow2", "other.qcow2"])
        self.assertEqual(self.chain("vda.monday.qcow2"), ["vda.monday.qcow2", "vda.qcow2"])
        self.assertEqual(self.flat("vda.monday.qcow2") == before, True)
        self.snapshot("create", "vda.monday.qcow2", "--name", "tuesday")
        self.assertEqual(self.chain("vda.tuesday.qcow2"), ["vda.tuesday.qcow2", "vda.monday.qcow2", "vda.qcow2"])
        listed = self.snapshot("list", "vda.tuesday.qcow2")
        self.assertIn("[2] vda.qcow2 <- [1] vda.monday.qcow2 <- [0] vda.tuesday.qcow2", listed)

    def test_names_from_elsewhere(self):
        before = self.flat("vda.qcow2")
        for name in ("deep/down", "other"):
            (self.path / name).mkdir(parents=True)
        (self.path / "other" / "link").symlink_to("../deep/down")
        for cwd, disk, overlay in (("deep", "../vda.qcow2", "down/a.qcow2"), ("other", "../vda.qcow2", "b.qcow2"),
                                   (".", "vda.qcow2", "other/link/c.qcow2"), ("deep/down", "a.qcow2", "../../d.qcow2"),
                                   (".", "./vda.qcow2", self.path / "e.qcow2"), ("other", self.path / "vda.qcow2", "f.qcow2")):
            self.lab.run(self.tidemark, "snapshot", "create", f"{disk}={overlay}", cwd=self.path / cwd)
            self.assertEqual(self.flat(self.path / cwd / overlay) == before, True, overlay)
        self.lab.run(self.tidemark, "chain", "commit", "../../d.qcow2", "1", cwd=self.path / "deep" / "down")
        self.assertEqual(self.chain("d.qcow2"), ["d.qcow2", "vda.qcow2"])
        self.assertEqual(self.flat("d.qcow2") == before, True)

    def test_nothing_is_written_through_a_link_that_was_laid(self):
        (self.path / "precious").write_text("precious")
        (self.path / "new.qcow2.tidemark-partial").symlink_to("precious")
        for words in (("create", "vda.qcow2=new.qcow2"), ("revert", "vdb.qcow2", "vda.qcow2", "--overlay", "new.qcow2")):
            self.lab.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "vda.qcow2", "vdb.qcow2")
            self.assertIn("symbolic link", self.snapshot(*words, expect=FAILED))
        self.assertEqual((self.path / "precious").read_text(), "precious")
        self.assertTrue((self.path / "new.qcow2.tidemark-partial").is_symlink())

    def test_a_disk_that_is_called_by_a_link_elsewhere(self):
        """What its header says then is found by who calls it by its own name, too."""
        for verb, *words in (("chain", "pull", "1"), ("chain", "commit", "1"), ("chain", "rebase", "BASE"), ("snapshot", "delete", "1")):
            with self.subTest(verb=verb, words=words):
                self.setUp()
                for name in ("store", "vms/deep"):
                    (self.path / name).mkdir(parents=True)
                store, below = self.path / "store", []
                for seed, name in enumerate(("base", "mid", "disk"), 1):
                    self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *below, store / f"{name}.qcow2", SIZE)
                    self.write(store / f"{name}.qcow2", seed)
                    below = ["-b", store / f"{name}.qcow2", "-F", "qcow2"]
                link = self.path / "vms/deep/disk.qcow2"
                link.symlink_to("../../store/disk.qcow2")
                before = self.flat("store/disk.qcow2")
                self.run_tidemark(verb, words[0], link, *(store / "base.qcow2" if word == "BASE" else word for word in words[1:]))
                self.assertEqual(self.chain("store/disk.qcow2"), ["disk.qcow2", "base.qcow2"])
                for name in ("store/disk.qcow2", link):
                    self.assertEqual(self.flat(name) == before, True)

    def test_all_or_none(self):
        self.snapshot("create", "vda.qcow2", "none.qcow2", expect=FAILED)
        (self.path / "vdb.x.qcow2").write_text("kept")
        self.assertIn("'vdb.x.qcow2' exists", self.snapshot("create", "vda.qcow2", "vdb.qcow2", "--name", "x", expect=FAILED))
        self.assertIn("two disks would become", self.snapshot("create", "vda.qcow2=y", "vdb.qcow2=y", expect=FAILED))
        self.lab.run("qemu-img", "create", "-q", "-f", "raw", "raw.img", SIZE)
        self.assertIn("only qcow2", self.snapshot("create", "--internal", "vda.qcow2", "raw.img", expect=FAILED))
        self.assertEqual(self.names(), ["vda.qcow2", "vdb.qcow2", "vdb.x.qcow2"])
        self.assertEqual(json.loads(self.snapshot("list", "vda.qcow2", "--json"))[0]["internal"], [])
        self.assertIn("give --qmp", self.snapshot("create", "vda.qcow2", "--quiesce", "true", expect=FAILED))

    def test_no_room(self):
        small = self.path / "small"
        small.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", small], capture_output=True, text=True)
        if mounted.returncode != 0:
            self.skipTest(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", small], check=True)
        before = self.flat("vda.qcow2")
        for words in (["create", "vda.qcow2=y.qcow2", "vdb.qcow2=small/x.qcow2"],
                      ["revert", "y.qcow2", "1", "--overlay", "small/x.qcow2"]):
            self.assertIn("No space left", self.snapshot(*words, expect=FAILED))
            self.assertEqual((self.names(), list(small.iterdir())), (sorted({*self.names()} - {"y.qcow2.tidemark-partial"}), []))
            if words[0] == "create":
                self.assertNotIn("y.qcow2", self.names())
                self.snapshot("create", "vda.qcow2=y.qcow2")
        self.assertEqual((self.flat("vda.qcow2") == before, self.flat("y.qcow2") == before), (True, True))

    def test_in_use(self):
        self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
        self.serve("vda.qcow2=vda")
        self.offline()
        self.assertIn("lock", self.snapshot("create", "vda.qcow2", expect=FAILED))
        self.assertEqual(self.names(), ["vda.qcow2", "vdb.qcow2"])

    def states(self):
        """base <- one <- two <- top, each of which holds a state of its own, and what they are."""
        self.lab.run("cp", "vda.qcow2", "base.qcow2")
        below = "base.qcow2"
        for seed, name in enumerate(("one.qcow2", "two.qcow2", "top.qcow2"), 2):
            self.snapshot("create", f"{below}={name}")
            self.write(name, seed)
            below = name
        return [self.flat(name) for name in ("top.qcow2", "two.qcow2", "one.qcow2", "base.qcow2")]

    def assert_states(self, top, wanted):
        """The disk and its snapshots, from the top down, read so."""
        chain = self.chain(top)
        self.assertEqual(len(chain), len(wanted))
        for name, state in zip(chain, wanted):
            self.assertEqual(self.flat(name) == state, True, name)
            self.lab.run("qemu-img", "check", "-q", name)

    def test_deleted_ones_leave_all_others(self):
        for way in ("auto", "pull", "commit"):
            for gone in ([1], [2], [3], [1, 3], [2, 3], [1, 2, 3]):
                with self.subTest(way=way, gone=gone):
                    for name in ("one.qcow2", "two.qcow2", "top.qcow2"):
                        (self.path / name).unlink(missing_ok=True)
                    states = self.states()
                    told = json.loads(self.snapshot("delete", "top.qcow2", *(f"[{n}]" for n in gone), "--way", way, "--json"))
                    last = told[-1] if len(gone) > 1 else told
                    self.assertEqual(os.path.basename(last["top"]), "top.qcow2" if way != "commit" or 1 not in gone else last["top"])
                    self.assert_states(last["top"], [state for n, state in enumerate(states) if n not in gone])

    def test_what_cannot_be_deleted(self):
        self.states()
        self.assertIn("is the disk as it is", self.snapshot("delete", "top.qcow2", "0", expect=FAILED))
        self.assertIn("has 4 layers", self.snapshot("delete", "top.qcow2", "1", "4", expect=FAILED))
        self.assertIn("Can't find snapshot", self.snapshot("delete", "--internal", "vda.qcow2", "x", expect=FAILED))
        self.assertEqual(len(self.chain("top.qcow2")), 4)

    def test_internal_ones(self):
        self.snapshot("create", "--internal", "--name", "a", "vda.qcow2", "vdb.qcow2")
        self.snapshot("create", "--internal", "--name", "b", "vda.qcow2")
        listed = self.snapshot("list", "vda.qcow2", "vdb.qcow2")
        self.assertRegex(listed, r"1 a +internal")
        told = json.loads(self.snapshot("list", "vda.qcow2", "vdb.qcow2", "--json"))
        self.assertEqual([[one["name"] for one in disk["internal"]] for disk in told], [["a", "b"], ["a"]])
        self.snapshot("delete", "--internal", "vda.qcow2", "a")
        shown = json.loads(self.lab.run("qemu-img", "info", "--output=json", "vda.qcow2").stdout)["snapshots"]
        self.assertEqual([one["name"] for one in shown], ["b"])

    def test_killed_while_it_deletes(self):
        for n in range(6):
            for name in ("one.qcow2", "two.qcow2", "top.qcow2"):
                (self.path / name).unlink(missing_ok=True)
            top, *_ = self.states()
            process = self.lab.start(self.tidemark, "snapshot", "delete", "top.qcow2", "1", "2", "--way", ("pull", "auto")[n % 2],
                                     stdout=subprocess.DEVNULL)
            time.sleep(random.random() * 0.06)
            process.kill()
            process.wait(20)
            self.lab.ended(process)
            self.assertEqual(self.flat("top.qcow2") == top, True)


class Guide(SnapshotBed):
    def test_its_commands(self):
        page = (processes.ROOT / "docs" / "guide" / "chains.md").read_text(encoding="utf-8").partition("## From virsh")[2]
        rows = [row.split("|")[2] for row in page.splitlines() if row.startswith("| `virsh ")]
        commands = [line for block in page.split("```\n")[1::2] for line in block.splitlines()]
        for row in rows:
            for command in re.findall(r"`(tidemark [^`]+)`", row):
                self.assertIn(command, commands)
        self.assertGreater(len(rows), 12)
        shown = self.run_guide("chains.md", begin="## From virsh")
        self.assertIn("vda[2] vda.qcow2 <- vda[1] vda.monday.qcow2 <- vda[0] vda.tuesday.qcow2", shown)
        self.assertEqual(self.flat("moved.qcow2"), self.flat("there.qcow2"))

    def test_the_first_page_s_snapshot(self):
        also = [("## When storage fails", "## In scripts"), ("## Snapshots of disks in use", "## Jobs")]
        shown = self.run_guide("README.md", begin="## Serve a disk", end="## First backup", also=also)
        self.assertIn("disk0[1] disk.raw <- disk0[0] disk0.monday.qcow2", shown)


if __name__ == "__main__":
    unittest.main()
