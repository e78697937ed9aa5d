"""tidemark snapshot revert of files: what the disk reads then, and what its bitmaps claim to know."""
import json
import os
import random
import subprocess
import time
import unittest

from bed import FAILED, MiB
from snapshot_bed import SnapshotBed


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

    def test_who_may_use_the_disk_s_file(self):
        top = self.path / "top.qcow2"
        top.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(top, 12345, 54321)
        before = top.stat()
        self.snapshot("revert", "top.qcow2", "1", "--discard")
        after = top.stat()
        self.assertNotEqual(after.st_ino, before.st_ino)
        self.assertEqual((after.st_mode, after.st_uid, after.st_gid), (before.st_mode, before.st_uid, before.st_gid))

    def test_a_layer_that_others_stand_on(self):
        self.lab.run("qemu-img", "snapshot", "-c", "kept", "one.qcow2")
        self.write("one.qcow2", 8)
        self.states = {name: self.flat(name) for name in self.states}
        (self.path / "link.qcow2").symlink_to("one.qcow2")
        for name in ("one.qcow2", "link.qcow2"):
            for words in (["1", "--discard"], ["kept", "--internal"]):
                self.lab.run("qemu-img", "snapshot", "-d" if words[0] == "1" else "-c", "kept", "one.qcow2")
                with self.subTest(name=name, words=words):
                    said = self.snapshot("revert", name, *words, expect=FAILED)
                    self.assertIn("top.qcow2' stands on '", said)
                    self.assertIn("rebase or remove it first", said)
                    self.assert_files()
        (self.path / "top.qcow2").unlink()
        del self.states["top.qcow2"]
        self.snapshot("revert", "one.qcow2", "kept", "--internal")
        self.lab.run("qemu-img", "snapshot", "-d", "kept", "one.qcow2")
        self.snapshot("revert", "one.qcow2", "1", "--discard")
        self.assert_files(**{"one.qcow2": self.states["base.qcow2"]})

    def test_files_that_it_is_not_known_of(self):
        """Beside the disk, and no reason to refuse."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "nbd://host/top.qcow2", "-F", "qcow2", "remote.qcow2", "4M")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "gone.qcow2", "-F", "qcow2", "orphan.qcow2", "4M")
        (self.path / "broken.qcow2").write_bytes(b"QFI\xfb" + bytes(100))
        (self.path / "secret.qcow2").write_bytes(b"QFI\xfb")
        (self.path / "secret.qcow2").chmod(0)
        os.mkfifo(self.path / "fifo")
        self.snapshot("revert", "top.qcow2", "1", "--discard")
        self.assert_files(**{"top.qcow2": self.states["one.qcow2"]})

    def test_what_is_refused(self):
        self.assertIn("--discard empties", self.snapshot("revert", "top.qcow2", "1", expect=FAILED))
        self.assertIn("no snapshot", self.snapshot("revert", "top.qcow2", "0", "--discard", expect=FAILED))
        self.assertIn("has 3 layers", self.snapshot("revert", "top.qcow2", "3", "--discard", expect=FAILED))
        self.assertIn("are for layers", self.snapshot("revert", "top.qcow2", "x", "--internal", "--discard", expect=FAILED))
        self.lab.run("qemu-img", "snapshot", "-c", "kept", "top.qcow2")
        self.assertIn("'kept', which would be lost", self.snapshot("revert", "top.qcow2", "1", "--discard", expect=FAILED))
        self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
        self.serve("top.qcow2=vda")
        self.assertIn("'kept', which would be lost", self.snapshot("revert", "vda", "1", "--discard", expect=FAILED))
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
                            self.assertIn("would not know what changes", done.stderr)
                            self.assertEqual(self.flat("top.qcow2") == before, True)
                            continue
                        self.assertEqual(self.flat("top.qcow2") == before, False)
                        for name, (inconsistent, count) in self.bitmap_states("top.qcow2").items():
                            self.assertTrue(inconsistent or count >= MiB, (name, inconsistent, count))


if __name__ == "__main__":
    unittest.main()
