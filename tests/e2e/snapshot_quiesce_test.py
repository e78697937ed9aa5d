"""tidemark snapshot create --quiesce: guests are frozen meanwhile, and thawed whatever happens."""
import os
import signal
import subprocess
import time
import unittest

from bed import FAILED, INTERRUPTED
from copy_test import BLOCKS, Counter, moment
from copy_test import DISK as COUNTED
from hooked import Hooked
from snapshot_bed import SnapshotBed


class Quiesced(Hooked, SnapshotBed):
    def setUp(self):
        super().setUp()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "vda.qcow2", COUNTED)
        self.serve(f"{self.path}/vda.qcow2=vda")
        self.client = self.qmp()

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
        """What was taken is told all the same."""
        done = self.run_tidemark("snapshot", "create", "vda", "--name", "x", "--quiesce", self.hook(thaw="exit 5"), expect=FAILED)
        self.assertRegex(done.stderr, r"^tidemark: snapshot 'x' of 'vda' \(now '.*vda.x.qcow2'\): .*thaw' ended with status 5: guests may be frozen\n$")
        self.assertIn("vda.x.qcow2' now", done.stdout)
        self.assertEqual(self.shown(), "vda.x")

    def test_both_fail(self):
        said = self.create("--quiesce", self.hook("exit 3", "exit 5"), expect=FAILED)
        self.assertIn("freeze' ended with status 3; nothing was changed; and '", said)
        self.assertIn("thaw' ended with status 5: guests may be frozen", said)
        self.assert_nothing_was_done()

    def test_killed_when_a_command_has_left_something_behind(self):
        """It does not keep the thaw from seeing that it is to begin."""
        process = self.lab.start(self.tidemark, "snapshot", "create", "vda", "--name", "x", "--quiesce",
                                 self.hook(f"sleep 15 & kill -STOP {self.daemon.pid}"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(os.kill, self.daemon.pid, signal.SIGCONT)
        self.until(lambda: (self.path / "told").exists(), "it freezes")
        time.sleep(0.5)
        process.kill()
        process.wait(20)
        self.lab.ended(process)
        self.until(lambda: self.told() == ["freeze", "thaw"], "it was thawed", patience=8)

    def test_who_was_to_thaw_is_killed(self):
        thawing = "for one in $(ps -o pid= --ppid $(ps -o ppid= -p $PPID)); do [ $one = $PPID ] || kill -KILL $one; done"
        said = self.create("--quiesce", self.hook(thawing), expect=FAILED)
        self.assertIn("thaw' ended with status 137: guests may be frozen", said)
        self.assertEqual((self.told(), self.shown()), (["freeze"], "vda.x"))

    def test_started_by_who_waits_for_no_children(self):
        self.lab.run("env", "--ignore-signal=SIGCHLD", self.tidemark, "snapshot", "create", "vda", "--name", "x", "--quiesce", self.hook())
        self.assertEqual((self.told(), self.shown()), (["freeze", "thaw"], "vda.x"))

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
