"""tidemark snapshot: of files and of a daemon's disks, external and internal; several at one moment or none, with guests frozen."""
import json
import os
import random
import signal
import subprocess
import time
import unittest

from bed import FAILED, INTERRUPTED, KiB, MiB, Bed
from copy_test import BLOCKS, Counter, moment
from copy_test import DISK as COUNTED

SIZE = 4 * MiB


class SnapshotBed(Bed):
    def make(self, *names):
        for name in names:
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", SIZE)
            self.write(f"{name}.qcow2", 1)

    def write(self, name, seed):
        """A pattern of its own at a place of its own, and one that all share."""
        self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -q -P {seed} 0 256k", "-c", f"write -q -P {seed} {seed * 64}k 1M", name)

    def guest_writes(self, name, seed):
        disk = self.disk(name)
        disk.pwrite(bytes([seed]) * (256 * KiB), 0)
        disk.pwrite(bytes([seed]) * MiB, seed * 64 * KiB)
        disk.shutdown()

    def flat(self, name):
        self.lab.run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", name, "flat.raw")
        return (self.path / "flat.raw").read_bytes()

    def offline(self):
        self.lab.env.pop("TIDEMARK_QMP", None)

    def snapshot(self, *words, expect=0):
        return self.fails("snapshot", *words, expect=expect) if expect else self.run_tidemark("snapshot", *words).stdout

    def chain(self, name):
        told = json.loads(self.lab.run("qemu-img", "info", "-U", "--backing-chain", "--output=json", name).stdout)
        return [os.path.basename(one["filename"]) for one in told]

    def names(self):
        return sorted(entry.name for entry in self.path.iterdir() if entry.name.endswith(("qcow2", "partial")))


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
                    said = self.snapshot("delete", "top.qcow2", *(f"[{n}]" for n in gone), "--way", way, "--json")
                    last = json.JSONDecoder().raw_decode(said[said.rindex("\n{") + 1:] if "\n{" in said else said)[0]
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


class Reverted(SnapshotBed):
    def setUp(self):
        super().setUp()
        self.offline()
        self.make("base")
        below = "base.qcow2"
        for seed, name in enumerate(("one.qcow2", "top.qcow2"), 2):
            self.snapshot("create", f"{below}={name}")
            self.write(name, seed)
            below = name
        self.states = {name: self.flat(name) for name in ("top.qcow2", "one.qcow2", "base.qcow2")}

    def assert_files(self, **changed):
        for name, state in {**self.states, **changed}.items():
            self.assertEqual(self.flat(name) == state, True, name)
            self.lab.run("qemu-img", "check", "-q", name)

    def test_a_new_file_on_the_snapshot(self):
        told = json.loads(self.snapshot("revert", "top.qcow2", "2", "--overlay", "again.qcow2", "--json"))
        self.assertEqual(told, {"disk": "top.qcow2", "snapshot": "[2]", "file": "again.qcow2"})
        self.assertEqual(self.chain("again.qcow2"), ["again.qcow2", "base.qcow2"])
        self.assert_files(**{"again.qcow2": self.states["base.qcow2"]})
        self.assertIn("exists", self.snapshot("revert", "top.qcow2", "2", "--overlay", "one.qcow2", expect=FAILED))
        self.assert_files()

    def test_the_disk_s_file_emptied(self):
        for word, below in (("1", "one.qcow2"), ("base.qcow2", "base.qcow2")):
            self.snapshot("revert", "top.qcow2", word, "--discard")
            self.assertEqual(self.chain("top.qcow2")[:2], ["top.qcow2", below])
            self.assert_files(**{"top.qcow2": self.states[below]})
        self.write("top.qcow2", 9)
        self.assert_files(**{"top.qcow2": self.flat("top.qcow2")})

    def test_what_is_refused(self):
        self.assertIn("--discard empties", self.snapshot("revert", "top.qcow2", "1", expect=FAILED))
        self.assertIn("no snapshot", self.snapshot("revert", "top.qcow2", "0", "--discard", expect=FAILED))
        self.assertIn("has 3 layers", self.snapshot("revert", "top.qcow2", "3", "--discard", expect=FAILED))
        self.assertIn("are for layers", self.snapshot("revert", "top.qcow2", "x", "--internal", "--discard", expect=FAILED))
        self.lab.run("qemu-img", "snapshot", "-c", "kept", "top.qcow2")
        self.assertIn("'kept', which would be lost", self.snapshot("revert", "top.qcow2", "1", "--discard", expect=FAILED))
        self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
        self.serve("top.qcow2=vda")
        self.assertIn("end the guest and the daemon", self.snapshot("revert", "vda", "1", "--discard", expect=FAILED))
        self.offline()
        self.lab.run("qemu-img", "snapshot", "-U", "-l", "top.qcow2")
        for words in (["1", "--discard"], ["kept", "--internal"]):
            self.assertIn("lock", self.snapshot("revert", "top.qcow2", *words, expect=FAILED))
        self.assertEqual(self.flat("top.qcow2") == self.states["top.qcow2"], True)

    def test_internal_ones(self):
        self.snapshot("create", "--internal", "--name", "a", "top.qcow2")
        self.write("top.qcow2", 7)
        self.snapshot("revert", "--internal", "top.qcow2", "a")
        self.assert_files()

    def test_killed(self):
        for n in range(10):
            self.write("top.qcow2", 5)
            before = self.flat("top.qcow2")
            process = self.lab.start(self.tidemark, "snapshot", "revert", "top.qcow2", "one.qcow2", "--discard", stdout=subprocess.DEVNULL)
            time.sleep(random.random() * 0.04)
            process.kill()
            process.wait(20)
            self.lab.ended(process)
            self.assertIn(self.flat("top.qcow2"), (before, self.states["one.qcow2"]))
            self.assertEqual(self.flat("one.qcow2") == self.states["one.qcow2"], True)

    def bitmap_states(self, name):
        self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
        for socket in ("qmp.sock", "nbd.sock"):
            (self.path / socket).unlink(missing_ok=True)
        self.serve(f"{name}=vda")
        told = self.json("bitmap", "list", "vda")
        self.run_tidemark("qmp", "quit")
        self.daemon.wait(20)
        return {one["name"]: (one.get("inconsistent", False), one["count"]) for one in told}

    def test_bitmaps_do_not_claim_to_know(self):
        """Of a disk that was reverted, after an orderly end and after a crash, in images of both versions."""
        for compat in ("1.1", "0.10"):
            for crash in (False, True):
                for words in (["1", "--discard"], ["kept", "--internal"]):
                    with self.subTest(compat=compat, crash=crash, words=words):
                        self.setUp()
                        if words[0] == "kept":
                            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"compat={compat}", "-b", "one.qcow2", "-F",
                                         "qcow2", "top.qcow2")
                            self.lab.run("qemu-img", "snapshot", "-c", "kept", "top.qcow2")
                        self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
                        self.serve("top.qcow2=vda")
                        self.guest_writes("vda", 4)
                        self.run_tidemark("bitmap", "add", "vda", "b", "--persistent", "--follows-disk")
                        if crash:
                            self.daemon.kill()
                        else:
                            self.run_tidemark("qmp", "quit")
                        self.daemon.wait(20)
                        self.offline()
                        before = self.flat("top.qcow2")
                        done = self.lab.run(self.tidemark, "snapshot", "revert", "top.qcow2", *words, ok=None)
                        if done.returncode != 0:
                            self.assertIn("remove them first", done.stderr)
                            self.assertEqual(self.flat("top.qcow2") == before, True)
                            continue
                        self.assertEqual(self.flat("top.qcow2") == before, False)
                        for name, (inconsistent, count) in self.bitmap_states("top.qcow2").items():
                            self.assertTrue(inconsistent or count >= MiB, (name, inconsistent, count))


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


class Quiesced(SnapshotBed):
    """A hook that writes down what it was told, and does as a test wants."""

    def setUp(self):
        super().setUp()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "vda.qcow2", COUNTED)
        self.serve(f"{self.path}/vda.qcow2=vda")
        self.client = self.qmp()

    def hook(self, freeze="true", thaw="true"):
        text = f"#!/bin/sh\necho \"$1\" >> {self.path}/told\necho \"$TIDEMARK_DISKS\" > {self.path}/disks\ncase $1 in\nfreeze) {freeze};;\nthaw) {thaw};;\nesac\n"
        (self.path / "hook").write_text(text)
        (self.path / "hook").chmod(0o755)
        return f"{self.path}/hook"

    def told(self):
        return (self.path / "told").read_text().split()

    def shown(self):
        export, = self.client.execute("query-block-exports")
        return export["node-name"]

    def create(self, *words, expect=0, name="x"):
        return self.snapshot("create", "vda", "--name", name, *words, expect=expect)

    def assert_nothing_was_done(self):
        self.assertEqual((self.shown(), self.names()), ("vda", ["vda.qcow2"]))

    def test_nothing_is_written_between(self):
        """A guest that stops writing while it is frozen: the snapshot is what it had written when it stopped."""
        freeze = f"touch {self.path}/frozen; while [ -e {self.path}/writing ]; do sleep 0.01; done"
        self.hook(freeze, f"rm {self.path}/frozen")
        (self.path / "writing").touch()
        writer = Counter(self.disk("vda"))
        handle_pwrite = writer.handle.pwrite

        class Guest:
            def pwrite(guest, data, at):
                if (self.path / "frozen").exists():
                    (self.path / "writing").unlink(missing_ok=True)
                    self.stopped.append(writer.last)
                    while (self.path / "frozen").exists():
                        time.sleep(0.005)
                handle_pwrite(data, at)

        self.stopped = []
        writer.handle = Guest()
        writer.start()
        self.addCleanup(writer.ending.set)
        self.until(lambda: writer.last > BLOCKS, "the guest has written")
        self.create("--quiesce", f"{self.path}/hook")
        writer.end()
        self.assertEqual(self.told(), ["freeze", "thaw"])
        self.assertEqual((self.path / "disks").read_text(), "vda\n")
        self.assertEqual(self.flat("vda.qcow2") == moment(self.stopped[0]), True)

    def test_freezing_fails(self):
        said = self.create("--quiesce", self.hook("exit 3"), expect=FAILED)
        self.assertIn("freeze' ended with status 3; nothing was changed", said)
        self.assertEqual(self.told(), ["freeze", "thaw"])
        self.assert_nothing_was_done()

    def test_freezing_hangs(self):
        said = self.create("--quiesce", self.hook("sleep 100"), "--quiesce-timeout", "1", expect=FAILED)
        self.assertIn("freeze' has not ended after 1 s; nothing was changed", said)
        self.assertEqual(self.told(), ["freeze", "thaw"])
        self.assert_nothing_was_done()

    def test_the_snapshot_fails(self):
        self.snapshot("create", "vda=nowhere/x.qcow2", "--quiesce", self.hook(), expect=FAILED)
        self.assertEqual(self.told(), ["freeze", "thaw"])
        self.assert_nothing_was_done()

    def test_thawing_fails(self):
        said = self.create("--quiesce", self.hook(thaw="exit 5"), expect=FAILED)
        self.assertIn("thaw' ended with status 5: guests may be frozen", said)
        self.assertEqual(self.shown(), "vda.x")

    def test_interrupted_and_killed_while_it_freezes(self):
        for number in (signal.SIGINT, signal.SIGKILL):
            (self.path / "told").unlink(missing_ok=True)
            hook = self.hook(f"echo $$ > {self.path}/pid; exec sleep {2 if number == signal.SIGKILL else 100}")
            process = self.lab.start(self.tidemark, "snapshot", "create", "vda", "--name", "x", "--quiesce", hook, stderr=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
            self.until(lambda: (self.path / "pid").exists(), "it freezes")
            process.send_signal(number)
            if number == signal.SIGINT:
                status, _, err = self.end_of(process)
                self.assertEqual((status, err), (INTERRUPTED, "tidemark: interrupted; nothing was changed\n"))
            else:
                process.wait(20)
            self.until(lambda: self.told() == ["freeze", "thaw"], "it was thawed")
            (self.path / "pid").unlink()
            self.assert_nothing_was_done()

    def test_the_daemon_hangs(self):
        """Guests are thawed in time, and who asked is told that the snapshot is not what was wanted."""
        stop = f"kill -STOP {self.daemon.pid}"
        process = self.lab.start(self.tidemark, "snapshot", "create", "vda", "--name", "x", "--quiesce", self.hook(stop), "--quiesce-timeout",
                                 "1", stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.until(lambda: (self.path / "told").exists() and self.told() == ["freeze", "thaw"], "it was thawed")
        self.assertIsNone(process.poll())
        os.kill(self.daemon.pid, signal.SIGCONT)
        status, _, err = self.end_of(process)
        self.assertEqual((status, "it is not quiesced" in err), (FAILED, True), err)

    def test_the_daemon_is_killed(self):
        process = self.lab.start(self.tidemark, "snapshot", "create", "vda", "--name", "x", "--quiesce",
                                 self.hook(f"kill -KILL {self.daemon.pid}"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.assertEqual(self.end_of(process)[0], FAILED)
        self.assertEqual(self.told(), ["freeze", "thaw"])


if __name__ == "__main__":
    unittest.main()
