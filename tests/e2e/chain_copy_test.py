"""tidemark chain copy: what the copy holds, and what is left when it is interrupted, killed, refused or runs out of room."""
import json
import os
import random
import shlex
import signal
import struct
import subprocess
import unittest

from bed import FAILED, INTERRUPTED, KiB, MiB, Bed
from copy_test import BLOCK, BLOCKS, DISK, Counter, moment


class CopyBed(Bed):
    """base.qcow2 <- disk.qcow2, and their content."""

    def setUp(self):
        super().setUp()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", DISK)
        self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -q -P 1 0 {DISK // 2}", "base.qcow2")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "disk.qcow2")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 2 64k 128k", "-c", "write -q -z 512k 64k", "disk.qcow2")
        self.before = self.flat("disk.qcow2")

    def flat(self, name, image_format="qcow2"):
        self.lab.run("qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", name, "flat")
        data = (self.path / "flat").read_bytes()
        (self.path / "flat").unlink()
        return data

    def names(self):
        return sorted(entry.name for entry in self.path.iterdir() if not entry.name.endswith((".sock", ".tidemark")))

    def backing_of(self, name):
        return json.loads(self.lab.run("qemu-img", "info", "-U", "--output=json", name).stdout).get("full-backing-filename")

    def chain(self, *words, expect=0):
        return self.fails("chain", *words, expect=expect) if expect else self.run_tidemark("chain", *words).stdout


class Files(CopyBed):
    def setUp(self):
        super().setUp()
        del self.lab.env["TIDEMARK_QMP"]

    def test_whole(self):
        for name, words in (("a.qcow2", []), ("b.raw", ["--format", "raw"])):
            told = json.loads(self.chain("copy", "disk.qcow2", name, "--json", *words))
            self.assertEqual((told["virtual-size"], told["pivoted"]), (DISK, False))
            self.assertEqual(self.flat(name, name[2:]), self.before)
            self.assertIsNone(self.backing_of(name))

    def test_shallow(self):
        (self.path / "elsewhere").mkdir()
        self.chain("copy", "disk.qcow2", "elsewhere/a.qcow2", "--shallow")
        self.assertEqual(self.flat("elsewhere/a.qcow2"), self.before)
        self.assertTrue(os.path.samefile(self.path / self.backing_of("elsewhere/a.qcow2"), self.path / "base.qcow2"))
        held = json.loads(self.lab.run("qemu-img", "map", "--output=json", "elsewhere/a.qcow2").stdout)
        self.assertEqual({part["start"] // KiB for part in held if part["depth"] == 0 and part["data"]}, {64})

    def test_into_what_is_there(self):
        self.raw("there.raw", DISK, seed=9)
        self.chain("copy", "disk.qcow2", "there.raw", "--reuse")
        self.assertEqual((self.path / "there.raw").read_bytes(), self.before)

    def test_what_is_refused(self):
        self.raw("there.raw", DISK)
        before = (self.path / "there.raw").read_bytes()
        self.assertIn("copy into it with --reuse", self.chain("copy", "disk.qcow2", "there.raw", expect=FAILED))
        self.assertEqual((self.path / "there.raw").read_bytes(), before)
        self.assertIn("No such file", self.chain("copy", "none.qcow2", "x.qcow2", expect=FAILED))
        self.assertIn("No such file", self.chain("copy", "disk.qcow2", "nowhere/x.qcow2", expect=FAILED))
        self.assertIn("nothing is below", self.chain("copy", "base.qcow2", "x.qcow2", "--shallow", expect=FAILED))
        self.assertIn("new qcow2 file", self.chain("copy", "disk.qcow2", "x.raw", "--shallow", "--format", "raw", expect=FAILED))
        self.assertIn("give --qmp, too", self.chain("copy", "disk.qcow2", "x.qcow2", "--pivot", expect=FAILED))
        self.assertFalse([name for name in self.names() if name.startswith("x.")])

    def test_interrupted_or_killed_it_does_not_look_whole(self):
        for number in (signal.SIGINT, signal.SIGKILL):
            process = self.lab.start(self.tidemark, "chain", "copy", "disk.qcow2", "x.qcow2", "--speed", "64K", stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            self.until(lambda: (self.path / "x.qcow2.tidemark-partial").exists() and self.catches(process, signal.SIGINT), "it is under way")
            process.send_signal(number)
            process.wait(30)
            self.lab.ended(process)
            self.assertNotIn("x.qcow2", self.names())
        self.chain("copy", "disk.qcow2", "x.qcow2")
        self.assertEqual(self.flat("x.qcow2"), self.before)


class Live(CopyBed):
    def begin(self):
        self.serve(f"{self.path}/disk.qcow2=disk")
        self.client = self.qmp()
        self.at_first = set(self.nodes())

    def begin_writing(self):
        """On a disk of zeroes."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "zero.qcow2", DISK)
        self.serve(f"{self.path}/zero.qcow2=disk")
        self.client = self.qmp()
        self.at_first = set(self.nodes())
        self.writer = Counter(self.disk())
        self.writer.start()
        self.addCleanup(self.writer.ending.set)
        self.until(lambda: self.writer.last > 2 * BLOCKS, "the guest has written")

    def nodes(self):
        return [node["node-name"] for node in self.client.execute("query-named-block-nodes")]

    def shown(self):
        export, = self.client.execute("query-block-exports")
        return export["node-name"]

    def assert_nothing_is_left(self, *but):
        self.assertEqual(self.client.execute("query-jobs"), [])
        self.assertEqual(set(self.nodes()), self.at_first)
        self.assertFalse([name for name in self.names() if name.startswith("x.")])

    def assert_a_moment(self, data, first, last):
        highest = max(struct.unpack_from("<Q", data, at)[0] for at in range(0, DISK, BLOCK))
        self.assertEqual(data == moment(highest), True, "it is of no moment")
        self.assertLessEqual(first, highest)
        self.assertLessEqual(highest, last + 1)

    def test_a_copy_of_the_moment_at_its_end(self):
        self.begin_writing()
        for name, words in (("a.qcow2", []), ("b.raw", ["--format", "raw"])):
            first = self.writer.last
            self.chain("copy", "disk", name, *words)
            self.assert_a_moment(self.flat(name, name[2:]), first, self.writer.last)
            self.assert_nothing_is_left()
        self.assertEqual(self.shown(), "disk")
        self.writer.end()
        self.assertEqual(self.content() == moment(self.writer.last), True)

    def test_the_disk_goes_over(self):
        self.begin_writing()
        told = json.loads(self.chain("copy", "disk", "new.qcow2", "--pivot", "--json"))
        self.assertEqual((told["node-name"], told["pivoted"], "left" in told), ("new", True, False))
        self.assertEqual((self.shown(), "disk" in self.nodes()), ("new", False))
        self.assertIn("disk[0] new.qcow2", self.chain("show", "disk"))           # by its export's name
        told = json.loads(self.chain("copy", "disk", "raw.img", "--format", "raw", "--pivot", "--json"))
        self.writer.end()
        self.assertEqual(self.content() == moment(self.writer.last), True)
        self.client.execute("quit")
        self.daemon.wait(20)
        self.assertEqual((self.path / "raw.img").read_bytes() == moment(self.writer.last), True)

    def test_shallow(self):
        self.begin()
        for words in ([], ["--pivot"]):
            name = f"shallow{len(words)}.qcow2"
            self.chain("copy", "disk", name, "--shallow", *words)
            self.assertEqual(self.flat(name), self.before)
            self.assertTrue(os.path.samefile(self.backing_of(name), self.path / "base.qcow2"))
        self.assertEqual(self.content(), self.before)
        self.assertIn("disk[1] base.qcow2 <- disk[0] shallow1.qcow2", self.chain("show", "disk"))

    def test_into_what_is_there(self):
        self.begin()
        self.raw("there.raw", DISK, seed=9)
        self.chain("copy", "disk", "there.raw", "--reuse")
        self.assertEqual((self.path / "there.raw").read_bytes(), self.before)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "shallow.qcow2")
        self.assertIn("stands on nothing", self.chain("copy", "disk", "shallow.qcow2", "--reuse", expect=FAILED))
        self.chain("copy", "disk", "shallow.qcow2", "--reuse", "--shallow")
        self.assertEqual(self.flat("shallow.qcow2"), self.before)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "alone.qcow2", DISK)
        self.assertIn("as the disk does", self.chain("copy", "disk", "alone.qcow2", "--reuse", "--shallow", expect=FAILED))

    def test_to_another_daemon(self):
        self.begin()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "remote.qcow2", DISK)
        other = self.lab.start(self.tidemark, "serve", "remote.qcow2=r", "--nbd", "n2.sock", "--qmp", "q2.sock", stdout=subprocess.DEVNULL)
        self.until(lambda: (self.path / "n2.sock").exists() and (self.path / "q2.sock").exists(), "the other daemon serves")
        uri = f"nbd+unix:///r?socket={self.path}/n2.sock"
        self.chain("copy", "disk", uri)
        self.lab.stop(other)
        self.assertEqual(self.flat("remote.qcow2"), self.before)
        self.assertIn("n2.sock", self.chain("copy", "disk", uri, expect=FAILED))
        self.assert_nothing_is_left()

    def test_it_stays_equal(self):
        self.begin_writing()
        told = json.loads(self.chain("copy", "disk", "new.qcow2", "--stay", "--json"))
        self.run_tidemark("job", "complete", told["job"])
        self.assertEqual(self.shown(), told["node-name"])
        self.writer.end()
        self.assertEqual(self.content() == moment(self.writer.last), True)

    def start_slow(self, *words):
        self.begin_writing()
        process = self.lab.start(self.tidemark, "chain", "copy", "disk", "x.qcow2", "--speed", "64K", *words, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
        self.until(lambda: self.client.execute("query-jobs"), "a job")
        return process

    def test_interrupted(self):
        for words in ([], ["--pivot"]):
            self.setUp()
            process = self.start_slow(*words)
            process.send_signal(signal.SIGINT)
            status, _, err = self.end_of(process)
            self.assertEqual((status, err), (INTERRUPTED, "tidemark: interrupted; nothing was left behind\n"))
            self.assert_nothing_is_left()
            self.writer.end()
            self.assertEqual(self.content() == moment(self.writer.last), True)

    def test_killed(self):
        process = self.start_slow()
        process.kill()
        self.end_of(process)
        self.assertNotIn("x.qcow2", self.names())
        self.assertIn("is in use", self.chain("copy", "disk", "x.qcow2", expect=FAILED))
        job, = self.client.execute("query-jobs")
        self.run_tidemark("job", "cancel", job["id"])
        self.client.wait_event("JOB_STATUS_CHANGE", id=job["id"], status="concluded")
        first = self.writer.last
        self.chain("copy", "disk", "x.qcow2")
        self.assert_a_moment(self.flat("x.qcow2"), first, self.writer.last)
        self.assertEqual(set(self.nodes()), self.at_first)

    def test_the_daemon_is_killed(self):
        process = self.start_slow()
        self.writer.ending.set()
        self.daemon.kill()
        self.daemon.wait(20)
        status, _, err = self.end_of(process)
        self.assertEqual(status, FAILED)
        self.assertIn("x.qcow2.tidemark-partial' stays", err)
        self.assertNotIn("x.qcow2", self.names())

    def test_two_at_once(self):
        process = self.start_slow()
        self.chain("copy", "disk", "x.qcow2", expect=FAILED)
        self.assertEqual(len(self.client.execute("query-jobs")), 1)
        self.assertIn("x.qcow2.tidemark-partial", self.names())
        process.send_signal(signal.SIGINT)
        self.end_of(process)
        self.assert_nothing_is_left()

    def test_beside_a_backup(self):
        self.begin()
        backup = self.start_slow_backup()
        job = self.json("job", "list")[0]["id"]
        for words in (("chain", "copy", "disk", "x.img"), ("chain", "copy", "disk", "x.img", "--pivot"), ("chain", "commit", "disk", "0")):
            told = self.fails(*words)
            self.assertIn(f"node 'disk' is in use by job '{job}' (backup); wait", told)
        self.run_tidemark(*shlex.split(told.split("or end it ('tidemark ")[1].split("'")[0]))
        self.assertEqual(self.end_of(backup)[0], FAILED)
        self.assert_nothing_is_left()

    def test_two_that_go_over_to_one_file(self):
        """Whoever comes second removes nothing of the first one's."""
        self.begin_writing()
        for n in range(6):
            name = f"n{n}.qcow2"
            both = [self.lab.start(self.tidemark, "chain", "copy", "disk", name, "--pivot", stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True) for _ in range(2)]
            ended = [self.end_of(process) for process in both]
            self.assertEqual(sorted(status for status, _, _ in ended), [0, FAILED], ended)
            self.assertIn(name, self.names())
            self.assertIn(f"disk[0] {name}", self.chain("show", "disk"))
        self.writer.end()
        self.assertEqual(self.content() == moment(self.writer.last), True)

    def test_no_room(self):
        small = self.path / "small"
        small.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", small], capture_output=True, text=True)
        if mounted.returncode != 0:
            self.skipTest(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", small], check=True)
        self.begin()
        for words in ([], ["--pivot"]):
            self.assertIn("No space left on device", self.chain("copy", "disk", "small/x.qcow2", *words, expect=FAILED))
            self.assertEqual(list(small.iterdir()), [])
            self.assert_nothing_is_left()
        self.assertEqual(self.content(), self.before)

    def test_bitmaps_that_stay(self):
        self.begin()
        for name, words in (("goes", ["--follows-disk"]), ("stays", []), ("kept", ["--persistent"])):
            self.run_tidemark("bitmap", "add", "disk", name, *words)
        told = json.loads(self.chain("copy", "disk", "new.qcow2", "--pivot", "--json"))
        self.assertEqual((told["bitmaps-left"], told["left"]), (["kept", "stays"], "disk"))
        self.assertEqual([one["name"] for one in self.json("bitmap", "list", "new")], ["goes"])

    def test_what_is_refused(self):
        self.begin()
        self.raw("there.raw", DISK)
        self.assertIn("copy into it with --reuse", self.chain("copy", "disk", "there.raw", expect=FAILED))
        self.assertIn("none", self.chain("copy", "none", "x.qcow2", expect=FAILED))
        self.assertIn("No such file", self.chain("copy", "disk", "nowhere/x.qcow2", expect=FAILED))
        self.raw("small.raw", DISK // 2)
        self.chain("copy", "disk", "small.raw", "--reuse", expect=FAILED)
        self.assert_nothing_is_left()


if __name__ == "__main__":
    unittest.main()
