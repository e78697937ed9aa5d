"""tidemark backup and checkpoint create --quiesce: guests are frozen at the moment of the point, and thawed while it is copied."""
import time
import unittest

from bed import FAILED, INTERRUPTED, KiB, MiB, Bed
from hooked import Hooked


class Quiesced(Hooked, Bed):
    def setUp(self):
        super().setUp()
        self.raw("a.img", 4 * MiB)
        self.raw("b.img", 2 * MiB, seed=2)
        self.serve("a.img=a", "b.img=b")

    def test_the_moment_is_between(self):
        """What is written when freezing ends is in it, and what is written when thawing begins is not."""
        def write(byte):
            return f"qemu-io -f raw -c 'write -q -P {ord(byte)} 64k 4k' 'nbd+unix:///a?socket={self.path}/nbd.sock'"

        point = self.backup("--quiesce", self.hook(write("f"), write("t")))
        self.assertEqual(self.told(), ["freeze", "thaw"])
        self.assertEqual((self.path / "disks").read_text(), "a b\n")
        self.assertIs(point["quiesced"], True)
        self.assertEqual(self.restored(point["point"], "a")[64 * KiB:68 * KiB], b"f" * 4096)
        self.assertEqual(self.disk("a").pread(4096, 64 * KiB), b"t" * 4096)
        self.assertIsNone(self.backup()["quiesced"])

    def test_guests_go_on_while_it_copies(self):
        process = self.start_slow_backup("--quiesce", self.hook())
        self.until(lambda: self.told() == ["freeze", "thaw"], "thawed")
        self.assertIsNone(process.poll())
        self.lab.stop(process)

    def assert_nothing_was_done(self, before):
        self.assertEqual(self.told(), ["freeze", "thaw"])
        self.assertEqual(self.state(), before)
        (self.path / "told").unlink()

    def test_freezing_fails_or_hangs(self):
        before = self.state()
        said = self.fails("backup", "backups", "--quiesce", self.hook("exit 3"))
        self.assertIn("freeze' ended with status 3; nothing was changed", said)
        self.assert_nothing_was_done(before)
        said = self.fails("backup", "backups", "--quiesce", self.hook("sleep 100"), "--quiesce-timeout", "1")
        self.assertIn("freeze' has not ended after 1 s; nothing was changed", said)
        self.assert_nothing_was_done(before)

    def test_interrupted_while_it_freezes(self):
        before = self.state()
        hook = self.hook(f"touch {self.path}/freezing; sleep 100")
        process = self.lab.start(self.tidemark, "backup", "backups", "--quiesce", hook, stdout=-1, stderr=-1, text=True)
        self.until(lambda: (self.path / "freezing").exists(), "it freezes")
        process.send_signal(2)
        status, _, err = self.end_of(process)
        self.assertEqual((status, err), (INTERRUPTED, "tidemark: interrupted; nothing was left behind\n"))
        self.assert_nothing_was_done(before)

    def test_the_backup_cannot_begin(self):
        before = self.state()
        self.fails("backup", "backups", "--spill-directory", "/nonexistent", "--quiesce", self.hook())
        self.assert_nothing_was_done(before)

    def test_thawing_fails(self):
        """That is told at once, and again with the point, which is there."""
        hook = self.hook(thaw="exit 5")
        process = self.start_slow_backup("--disk", "b", "--quiesce", hook)
        began = time.monotonic()
        said = process.stderr.readline()
        self.assertLess(time.monotonic() - began, 10)
        self.assertRegex(said, r"^tidemark: the moment of point '\S+': done, but '.*thaw' ended with status 5: guests may be frozen$")
        self.assertIsNone(process.poll())
        self.lab.stop(process)
        done = self.run_tidemark("backup", "backups", "--quiesce", hook, expect=FAILED)
        first, last = done.stderr.splitlines()
        self.assertRegex(first, "the moment of point")
        self.assertRegex(last, r"^tidemark: point '\S+' is complete: done, but '.*thaw' ended with status 5: guests may be frozen$")
        self.run_tidemark("verify", "backups")
        self.assertIs(self.json("backup", "backups", "--quiesce", hook, expect=FAILED)["quiesced"], False)

    def test_checkpoints(self):
        self.run_tidemark("checkpoint", "create", "one", "--quiesce", self.hook())
        self.assertEqual((self.told(), (self.path / "disks").read_text()), (["freeze", "thaw"], "a b\n"))
        said = self.fails("checkpoint", "create", "two", "--disk", "b", "--quiesce", self.hook("exit 1"))
        self.assertIn("nothing was changed", said)
        self.assertEqual((self.path / "disks").read_text(), "b\n")
        said = self.fails("checkpoint", "create", "three", "--quiesce", self.hook(thaw="exit 1"))
        self.assertIn("checkpoint 'three': done, but", said)
        self.assertEqual({one["name"] for one in self.json("checkpoint", "list")}, {"one", "three"})


if __name__ == "__main__":
    unittest.main()
