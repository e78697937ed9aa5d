"""tidemark chain rebase: layers on other bases, of files and of a daemon's disk; every layer reads as before."""
import json
import os
import random
import signal
import subprocess
import time
import unittest

from bed import FAILED, INTERRUPTED, MiB, Bed

SIZE = 8 * MiB
LAYERS = ["base", "a", "b", "top"]


class Rebases(Bed):
    def setUp(self):
        super().setUp()
        rng, below = random.Random(5), []
        for name in LAYERS:
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *below, f"{name}.qcow2", str(SIZE))
            below = ["-b", f"{name}.qcow2", "-F", "qcow2"]
            writes = []
            for _ in range(12):
                at, length = rng.randrange(SIZE // 4096 - 128) * 4096, 4096 * rng.randrange(1, 128)
                kind = f"-P {rng.randrange(256)}" if rng.randrange(4) else "-z"
                writes += ["-c", f"write -q {kind} {at} {length}"]
            self.lab.run("qemu-io", *writes, f"{name}.qcow2")
        self.lab.run("qemu-img", "convert", "-O", "qcow2", "b.qcow2", "same.qcow2")           # reads as b does
        self.before = {name: self.flat(name) for name in LAYERS}

    def flat(self, name):
        self.lab.run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", f"{name}.qcow2", "flat.raw")
        return (self.path / "flat.raw").read_bytes()

    def stands_on(self, name):
        told = json.loads(self.lab.run("qemu-img", "info", "-U", "--output=json", f"{name}.qcow2").stdout)
        below = told.get("full-backing-filename")
        return below and os.path.basename(below)

    def assert_reads_as_before(self):
        for name in LAYERS:
            self.assertEqual(self.flat(name) == self.before[name], True, name)
            if not self.daemon or self.daemon.poll() is not None:
                self.assertIn(self.lab.run("qemu-img", "check", "-q", f"{name}.qcow2", ok=None).returncode, (0, 3))

    def offline(self):
        self.lab.env.pop("TIDEMARK_QMP", None)

    def live(self):
        self.serve(f"{self.path}/top.qcow2=vda")

    def rebase(self, *words, expect=0):
        return self.fails("chain", "rebase", *words, expect=expect) if expect else self.run_tidemark("chain", "rebase", *words).stdout

    FURTHER_DOWN = [(["2"], "top", "a.qcow2"), (["base.qcow2"], "top", "base.qcow2"), ([""], "top", None),
                    (["[3]", "--layer", "1"], "b", "base.qcow2"), (["", "--layer", "b.qcow2"], "b", None)]

    def test_further_down(self):
        for words, image, below in self.FURTHER_DOWN:
            for top, begin in (("top.qcow2", self.offline), ("vda", self.live)):
                with self.subTest(words=words, top=top):
                    self.setUp()
                    begin()
                    told = json.loads(self.rebase(top, *words, "--json"))
                    self.assertEqual(os.path.basename(told["base"]), below or "")
                    self.assertEqual(self.stands_on(image), below)
                    self.assert_reads_as_before()
                    if self.daemon:
                        self.assertEqual(self.content("vda") == self.before["top"], True)
                        self.assertEqual(self.qmp().execute("query-jobs"), [])

    def test_libvirts_names(self):
        self.live()
        self.rebase("vda", "vda[3]", "--layer", "vda[1]")
        self.assertEqual(self.stands_on("b"), "base.qcow2")
        self.assertIn("stands on", self.rebase("vda", "vda[1]"))                   # it does
        self.assertEqual(self.stands_on("top"), "b.qcow2")

    def test_on_another_file(self):
        self.offline()
        (self.path / "elsewhere").mkdir()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "elsewhere/other.qcow2", str(SIZE))
        self.lab.run("qemu-io", "-c", "write -q -P 77 0 4M", "elsewhere/other.qcow2")
        self.rebase("top.qcow2", "elsewhere/other.qcow2")
        self.assertEqual(self.stands_on("top"), "other.qcow2")
        self.assert_reads_as_before()
        self.rebase("elsewhere/../top.qcow2", str(self.path / "b.qcow2"))
        self.rebase(str(self.path / "top.qcow2"), "elsewhere/other.qcow2")         # as seen from here, not from the image
        self.assertEqual(self.stands_on("top"), "other.qcow2")
        self.assert_reads_as_before()

    def test_a_base_that_was_moved(self):
        self.offline()
        (self.path / "b.qcow2").rename(self.path / "moved.qcow2")
        self.assertIn("b.qcow2", self.rebase("top.qcow2", "moved.qcow2", expect=FAILED))
        self.rebase("top.qcow2", "moved.qcow2", "--unsafe")
        self.assertEqual(self.stands_on("top"), "moved.qcow2")
        self.assertEqual(self.flat("top") == self.before["top"], True)

    def test_a_daemon_s_names(self):
        self.live()
        said = self.rebase("vda", "same.qcow2", expect=FAILED)
        self.assertIn("end the daemon and rebase the files; or give --unsafe", said)
        self.assertEqual(self.stands_on("top"), "b.qcow2")
        self.rebase("vda", "same.qcow2", "--unsafe")
        self.assertEqual(self.stands_on("top"), "same.qcow2")
        self.assertEqual(self.content("vda") == self.before["top"], True)
        self.assert_reads_as_before()
        self.raw("same.raw", SIZE)
        self.assertIn("is raw, and what the layer stands on is not", self.rebase("vda", "same.raw", "--unsafe", expect=FAILED))
        self.assertIn("leave --unsafe out", self.rebase("vda", "2", "--unsafe", expect=FAILED))

    def test_circles(self):
        for top, begin in (("top.qcow2", self.offline), ("vda", self.live)):
            begin()
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "-u", "above.qcow2", str(SIZE))
            for words in ([], ["--unsafe"]):
                for name in ("above.qcow2", "top.qcow2"):
                    said = self.rebase(top, name, *words, expect=FAILED)
                    self.assertRegex(said, "stands on '.*' itself|is not below")
            self.assertRegex(self.rebase(top, "b.qcow2", "--layer", "2", expect=FAILED), r"\[1\] is not below .*\[2\]")
            self.assertIn("no layer", self.rebase(top, "none.qcow2", expect=FAILED))
            self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
        self.assert_reads_as_before()

    def test_files_in_use(self):
        self.live()
        self.offline()
        self.assertIn("lock", self.rebase("top.qcow2", "2", expect=FAILED))
        self.assertEqual(self.stands_on("top"), "b.qcow2")

    def test_interrupted_and_killed(self):
        self.live()
        client = self.qmp()
        for number in (signal.SIGINT, signal.SIGKILL):
            process = self.lab.start(self.tidemark, "chain", "rebase", "vda", "3", "--speed", "64K", stderr=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
            self.until(lambda: client.execute("query-jobs"), "a job")
            process.send_signal(number)
            status, _, err = self.end_of(process)
            if number == signal.SIGINT:
                self.assertEqual((status, "stands where it did" in err), (INTERRUPTED, True))
                self.assertEqual(client.execute("query-jobs"), [])
            self.assertEqual(self.stands_on("top"), "b.qcow2")
        self.daemon.kill()
        self.daemon.wait(20)
        self.assert_reads_as_before()
        self.offline()
        for _ in range(5):
            process = self.lab.start(self.tidemark, "chain", "rebase", "top.qcow2", "3", stdout=subprocess.DEVNULL)
            time.sleep(random.random() * 0.05)
            process.kill()
            self.end_of(process)
            self.assert_reads_as_before()
        if self.stands_on("top") != "base.qcow2":                # it may have been quick
            self.rebase("top.qcow2", "3")
        self.assertEqual(self.stands_on("top"), "base.qcow2")
        self.assert_reads_as_before()


if __name__ == "__main__":
    unittest.main()
