"""tidemark snapshot revert of a running daemon's disks: what exports serve before, meanwhile and afterwards."""
import json
import os
import random
import subprocess
import threading
import time
import unittest

from bed import FAILED, MiB
from lab import processes
from lab.qmp import QmpError
from snapshot_bed import SIZE, SnapshotBed


CLIENT = "A client is connected to export"


class RevertLive(SnapshotBed):
    """vda: vda.qcow2 <- vda.a.qcow2 <- vda.b.qcow2, and what each showed as states[2], [1], [0]."""

    def begin(self, *options):
        self.make("vda")
        self.serve(f"{self.path}/vda.qcow2=vda", options=options)
        self.client = self.qmp()
        self.make_layers()

    def make_layers(self):
        self.states = []
        for seed, name in enumerate(("a", "b"), 2):
            self.states.insert(0, self.content("vda"))
            self.snapshot("create", "vda", "--name", name)
            self.guest_writes("vda", seed)
        self.states.insert(0, self.content("vda"))

    def attempt(self, words, why=""):
        """How the command ends once the daemon knows that clients have gone, unless that is what is waited for."""
        for _ in range(200):
            done = self.lab.run(self.tidemark, "snapshot", "revert", *words, ok=None, timeout=60)
            if why == CLIENT or CLIENT not in done.stderr:
                return done
            time.sleep(0.05)
        self.fail("a client stays")

    def revert(self, *words):
        done = self.attempt(words)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def state(self):
        nodes = sorted(node["node-name"] for node in self.client.execute("query-named-block-nodes") if node["node-name"][0] != "#")
        return self.client.execute("query-block-exports"), nodes, sorted(os.listdir(self.path)), self.client.execute("query-jobs")

    def assert_refused(self, why, *words):
        before = self.state()
        done = self.attempt(words, why)
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (FAILED, 1), done.stderr)
        self.assertIn(why, done.stderr)
        self.assertEqual(self.state(), before)

    def top(self, name="vda"):
        return os.path.basename(self.json("chain", "show", name)[0]["filename"])

    def node(self):
        return self.json("chain", "show", "vda")[0]["node-name"]

    def end(self):
        self.client.execute("quit")
        self.daemon.wait(20)

    def serve_again(self, name):
        """As another daemon would, which may come after one that was killed."""
        if self.daemon.poll() is None:
            self.end()
        for socket in ("qmp.sock", "nbd.sock"):
            (self.path / socket).unlink(missing_ok=True)
        self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
        self.serve(f"{name}=vda")
        self.client = self.qmp()

    ways = ("1", "--discard"), ("2", "--overlay", "again.qcow2"), ("kept", "--internal")

    def test_not_under_a_client(self):
        self.begin()
        self.snapshot("create", "--internal", "--name", "kept", "vda")
        self.client.execute("block-export-add", type="nbd", id="other", name="other", **{"node-name": "vda.b"})
        for export in ("vda", "other"):
            disk = self.disk(export)
            self.until(lambda: disk.pread(512, 0), "it is served")
            for words in self.ways:
                self.assert_refused(CLIENT, "vda", *words)
            disk.shutdown()
            self.assertEqual(self.content("vda") == self.states[0], True)

    def test_a_new_overlay(self):
        self.begin()
        self.client.execute("block-export-add", type="nbd", id="other", name="different", **{"node-name": "vda.b"})
        told = json.loads(self.revert("vda", "2", "--overlay", "again.qcow2", "--json"))
        self.assertEqual(told, {"disk": "vda", "snapshot": "vda[2]", "file": str(self.path / "again.qcow2")})
        self.assertEqual({export["id"]: export["node-name"] for export in self.client.execute("query-block-exports")},
                         {"vda": "again", "other": "again"})
        self.assertEqual((self.content("vda") == self.states[2], self.content("different") == self.states[2]), (True, True))
        self.guest_writes("vda", 7)
        self.revert("vda", "vda.qcow2", "--overlay", "more.qcow2")
        self.assertEqual(self.content("vda") == self.states[2], True)
        self.end()
        self.assertEqual(self.chain("more.qcow2"), ["more.qcow2", "vda.qcow2"])
        self.assertEqual(self.chain("vda.b.qcow2"), ["vda.b.qcow2", "vda.a.qcow2", "vda.qcow2"])
        for name, state in zip(("vda.b.qcow2", "vda.a.qcow2", "vda.qcow2"), self.states):
            self.assertEqual(self.flat(name) == state, True, name)
            self.lab.run("qemu-img", "check", "-q", name)
        self.assertEqual([name for name in self.names() if "partial" in name], [])

    def test_the_file_emptied(self):
        self.begin()
        top = self.path / "vda.b.qcow2"
        top.chmod(0o640)
        before = top.stat()
        for word, state in (("1", 1), ("2", 2)):
            told = json.loads(self.revert("vda", word, "--discard", "--json"))
            self.assertEqual((told["file"], self.top()), (str(top), "vda.b.qcow2"))
            self.assertEqual(self.content("vda") == self.states[state], True)
        after = top.stat()
        self.assertEqual((after.st_mode, after.st_uid, after.st_gid), (before.st_mode, before.st_uid, before.st_gid))
        self.guest_writes("vda", 6)
        now = self.content("vda")
        self.snapshot("create", "vda", "--name", "c")
        self.assertEqual(self.content("vda") == now, True)
        self.end()
        self.assertEqual(self.chain("vda.c.qcow2"), ["vda.c.qcow2", "vda.b.qcow2", "vda.qcow2"])
        self.assertEqual(self.flat("vda.c.qcow2") == now, True)
        self.assertEqual([name for name in os.listdir(self.path) if "partial" in name or name.endswith(".tidemark")], [])

    def test_nothing_is_written_through_a_link_that_was_laid(self):
        self.begin()
        (self.path / "precious").write_text("precious")
        for name in ("vda.b.qcow2", "again.qcow2"):
            (self.path / f"{name}.tidemark-partial").symlink_to("precious")
        self.assertIn("symbolic link", self.snapshot("revert", "vda", "1", "--discard", expect=FAILED))
        self.assertIn("symbolic link", self.snapshot("revert", "vda", "1", "--overlay", "again.qcow2", expect=FAILED))
        self.assertEqual((self.path / "precious").read_text(), "precious")
        self.assertEqual(self.content("vda") == self.states[0], True)
        self.assertTrue((self.path / "again.qcow2.tidemark-partial").is_symlink())

    def test_internal_ones(self):
        self.begin()
        self.snapshot("create", "--internal", "--name", "kept", "vda")
        self.guest_writes("vda", 9)
        self.assert_refused("Can't find snapshot 'none'", "vda", "none", "--internal")
        self.run_tidemark("bitmap", "add", self.node(), "b", "--persistent")
        self.assert_refused("'b' for one, that would not know what changes", "vda", "kept", "--internal")
        self.run_tidemark("bitmap", "remove", self.node(), "b")
        self.run_tidemark("bitmap", "add", self.node(), "passing")
        self.revert("vda", "kept", "--internal")
        self.assertTrue(self.json("bitmap", "list", self.node())[0]["inconsistent"])
        self.assertEqual(self.content("vda") == self.states[0], True)
        self.assert_refused("keeps the internal snapshot 'kept', which would be lost", "vda", "1", "--discard")
        self.guest_writes("vda", 8)
        self.end()
        self.lab.run("qemu-img", "check", "-q", "vda.b.qcow2")

    def test_not_while_a_job_or_anybody_else_uses_it(self):
        self.begin()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "target.qcow2", SIZE)
        self.client.execute("blockdev-add", driver="qcow2", **{"node-name": "target"},
                            file={"driver": "file", "filename": str(self.path / "target.qcow2")})
        for device, sync in (("vda.b", "full"), ("vda", "full")):
            self.client.execute("blockdev-backup", device=device, target="target", sync=sync, speed=1, **{"job-id": "j"})
            for words in self.ways[:2]:
                self.assert_refused("in use by block job", "vda", *words)
            self.client.execute("job-cancel", id="j")
            self.until(lambda: self.client.execute("query-jobs") == [], "it is gone")
        self.client.execute("blockdev-add", driver="copy-before-write", file="vda.b", target="target", **{"node-name": "cbw"})
        for words in self.ways[:2]:
            self.assert_refused("node 'cbw' uses it", "vda", *words)
        self.client.execute("blockdev-del", **{"node-name": "cbw"})
        self.revert("vda", "1", "--discard")
        self.assertEqual(self.content("vda") == self.states[1], True)

    def test_what_cannot_be_made_leaves_nothing(self):
        self.begin()
        self.assert_refused("'", "vda", "1", "--overlay", "vda.qcow2")
        self.assert_refused("No such file", "vda", "1", "--overlay", "nowhere/x.qcow2")
        self.assert_refused("no snapshot", "vda", "0", "--discard")
        before = self.state()
        for mode in ({"mode": "discard"}, {"mode": "overlay", "overlay-file": str(self.path / "y.qcow2")}):
            for snapshot, name in (("vda", "vda.b"), ("vda", "9"), ("vda.b", "new"), ("none", "new")):
                with self.assertRaises(QmpError):
                    self.client.execute("blockdev-snapshot-revert", snapshot=snapshot, **mode,
                                        **{"node-name": "vda.b", "overlay-node-name": name})
            with self.assertRaises(QmpError):          # it is stood on
                self.client.execute("blockdev-snapshot-revert", snapshot="vda", **mode, **{"node-name": "vda.a", "overlay-node-name": "new"})
        self.assertEqual(self.state(), before)
        self.assertEqual(self.content("vda") == self.states[0], True)

    def test_no_room(self):
        small = self.path / "small"
        small.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True, text=True)
        if mounted.returncode != 0:
            self.skipTest(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", small], check=True)
        self.begin()
        self.assert_refused("No space left", "vda", "1", "--overlay", "small/x.qcow2")
        self.assertEqual(list(small.iterdir()), [])

    def test_a_name_that_cannot_be_taken(self):
        """The last step fails: bitmaps, too, are as they were."""
        self.begin()
        top = self.path / "vda.b.qcow2"
        self.run_tidemark("bitmap", "add", self.node(), "kept", "--persistent")
        self.guest_writes("vda", 4)
        if subprocess.run(["mount", "--bind", top, top], capture_output=True).returncode != 0:
            self.skipTest("a file cannot be mounted here")
        before = self.content("vda"), self.json("bitmap", "list", self.node())
        try:
            self.assert_refused("busy", "vda", "1", "--discard")
        finally:
            subprocess.run(["umount", "-l", top], check=True)
        self.assertEqual((self.content("vda"), self.json("bitmap", "list", self.node())) == before, True)
        self.guest_writes("vda", 5)
        self.daemon.kill()
        self.daemon.wait(20)
        self.serve_again("vda.b.qcow2")
        told, = self.json("bitmap", "list", self.node())
        self.assertEqual((told["name"], told.get("inconsistent", False)), ("kept", False))
        self.assertGreaterEqual(told["count"], MiB)

    def test_on_a_thread_of_its_own(self):
        self.make("vda")
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "chardev=c",
                                     "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--object", "iothread,id=t0", "--blockdev",
                                     f"qcow2,node-name=vda,file.driver=file,file.filename={self.path}/vda.qcow2", "--export",
                                     "nbd,id=vda,node-name=vda,name=vda,writable=on,iothread=t0,fixed-iothread=on")
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()
        self.make_layers()
        self.revert("vda", "2", "--overlay", "again.qcow2")
        self.assertEqual(self.content("vda") == self.states[2], True)
        self.snapshot("create", "--internal", "--name", "kept", "vda")
        self.guest_writes("vda", 5)
        self.revert("vda", "kept", "--internal")
        self.assertEqual(self.content("vda") == self.states[2], True)
        self.run_tidemark("snapshot", "delete", "--internal", "vda", "kept")
        self.guest_writes("vda", 5)
        self.revert("vda", "1", "--discard")
        self.assertEqual(self.content("vda") == self.states[2], True)
        self.guest_writes("vda", 5)

    def test_through_a_filter(self):
        self.begin()
        self.client.execute("object-add", **{"qom-type": "throttle-group", "id": "g"})
        self.client.execute("blockdev-add", driver="throttle", file="vda.b", **{"node-name": "slow", "throttle-group": "g"})
        self.client.execute("block-export-add", type="nbd", id="web", name="web", **{"node-name": "slow"}, writable=True)
        self.client.execute("block-dirty-bitmap-add", node="slow", name="above")
        self.assert_refused("node 'slow', which shows it, has bitmaps", "vda", "1", "--discard")
        self.client.execute("block-dirty-bitmap-remove", node="slow", name="above")
        self.revert("web", "1", "--discard")
        self.assertEqual((self.content("web") == self.states[1], self.content("vda") == self.states[1]), (True, True))

    def test_of_another_size(self):
        self.begin()
        self.client.execute("block-export-del", id="vda", mode="hard")
        self.until(lambda: self.client.execute("query-block-exports") == [], "it is gone")
        self.client.execute("blockdev-add", driver="qcow2", **{"node-name": "top"},
                            file={"driver": "file", "filename": str(self.path / "vda.b.qcow2")})
        self.client.execute("block_resize", size=6 * MiB, **{"node-name": "top"})
        self.client.execute("block-export-add", type="nbd", id="vda", name="vda", **{"node-name": "top"}, writable=True)
        self.assertEqual(len(self.content("vda")), 6 * MiB)
        self.revert("vda", "1", "--discard")
        self.assertEqual(self.content("vda") == self.states[1], True)
        self.guest_writes("vda", 5)

    def test_without_exports(self):
        self.begin()
        self.serve_again("vda.b.qcow2")
        self.client.execute("block-export-del", id="vda")
        self.until(lambda: self.client.execute("query-block-exports") == [], "it is gone")
        self.revert("vda", "1", "--overlay", "again.qcow2")
        self.client.execute("block-export-add", type="nbd", id="vda", name="vda", **{"node-name": "again"}, writable=True)
        self.assertEqual(self.content("vda") == self.states[1], True)

    def test_backups_and_bitmaps(self):
        for words, crash in ((("1", "--discard"), False), (("1", "--discard"), True), (("2", "--overlay", "again.qcow2"), True)):
            with self.subTest(words=words, crash=crash):
                self.setUp()
                self.begin()
                self.backup(level="full")
                self.guest_writes("vda", 4)
                self.backup(level="incremental")
                self.run_tidemark("bitmap", "add", self.node(), "p", "--persistent", "--follows-disk")
                self.revert("vda", *words)
                self.assertEqual(self.json("bitmap", "list", self.node()), [])
                state = self.states[int(words[0])]
                if crash:
                    self.daemon.kill()
                    self.daemon.wait(20)
                    self.serve_again(words[-1] if words[-1].endswith("2") else "vda.b.qcow2")
                    self.assertEqual(self.json("bitmap", "list", self.node()), [])
                point = self.backup(level="full")
                self.assert_restores(point["point"], state)
                self.guest_writes("vda", 6)
                now = self.content("vda")
                point = self.backup(level="incremental")
                self.assert_restores(point["point"], now)

    def test_passing_bitmaps_stay_with_their_node(self):
        self.begin()
        self.serve_again("vda.b.qcow2")
        self.run_tidemark("bitmap", "add", self.node(), "passing")
        self.assertIn("node 'vda', which it was, is still there", self.revert("vda", "1", "--overlay", "again.qcow2"))
        self.assertEqual([node["dirty-bitmaps"][0]["name"] for node in self.client.execute("query-named-block-nodes")
                          if node["node-name"] == "vda"], ["passing"])

    def test_exported_bitmaps(self):
        self.begin()
        self.run_tidemark("bitmap", "add", self.node(), "shown")
        self.client.execute("block-dirty-bitmap-disable", node="vda.b", name="shown")
        self.client.execute("block-export-add", type="nbd", id="pull", name="pull", bitmaps=["shown"], **{"node-name": "vda.b"})
        self.assert_refused("Export 'pull' shows bitmaps", "vda", "1", "--discard")

    def test_clients_that_come_meanwhile_see_one_or_the_other(self):
        self.begin()
        seen, enough = [], threading.Event()

        def look():
            while not enough.is_set():
                try:
                    seen.append(self.content("vda"))
                except Exception as error:                # turned away at that moment
                    seen.append(str(error))

        watchers = [threading.Thread(target=look) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        ends = []
        for n in range(40):
            done = self.lab.run(self.tidemark, "snapshot", "revert", "vda", "1", "--overlay", f"x{n}.qcow2", ok=None)
            ends.append(done.returncode)
            time.sleep(random.random() * 0.02)
            if done.returncode == 0:
                break
        enough.set()
        for watcher in watchers:
            watcher.join()
        for content in seen:
            self.assertTrue(isinstance(content, str) or content in self.states[:2])
        self.assertEqual(self.content("vda") == self.states[1 if ends[-1] == 0 else 0], True)

    def test_killed(self):
        self.begin()
        self.end()
        for n in range(12):
            self.offline()
            if self.chain("vda.b.qcow2")[1] == "vda.a.qcow2":
                self.write("vda.b.qcow2", 5)
            before = self.flat("vda.b.qcow2")
            self.serve_again("vda.b.qcow2")
            process = self.lab.start(self.tidemark, "snapshot", "revert", "vda", "vda.a.qcow2", "--discard", stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            time.sleep(random.random() * 0.05)
            self.daemon.kill()
            self.daemon.wait(20)
            process.wait(20)
            self.lab.ended(process)
            self.assertIn(self.flat("vda.b.qcow2"), (before, self.states[1]))
            self.lab.run("qemu-img", "check", "-q", "vda.b.qcow2")


if __name__ == "__main__":
    unittest.main()
