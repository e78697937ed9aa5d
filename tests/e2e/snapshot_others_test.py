"""tidemark snapshot and tidemark chain where others have a part in it: images on the same base, programs at the same time, files that
are taken for the disk by mistake."""
import json
import os
import signal
import subprocess
import unittest

from bed import FAILED, KiB, MiB, processes
from snapshot_bed import SIZE, SnapshotBed


class Files(SnapshotBed):
    """base <- one <- top: the base holds much, what is above little."""

    def setUp(self):
        super().setUp()
        self.offline()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", SIZE)
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 3M", "base.qcow2")
        below = "base.qcow2"
        for seed, name in enumerate(("one.qcow2", "top.qcow2"), 2):
            self.snapshot("create", f"{below}={name}")
            self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -q -P {seed} 64k 64k", name)
            below = name
        self.top = self.flat("top.qcow2")

    def delete(self, *words):
        told = json.loads(self.snapshot("delete", *words, "--json"))
        return told["action"]

    def test_what_others_stand_on_is_not_written_to(self):
        for made in ("plainly", "by a link"):
            with self.subTest(made=made):
                self.setUp()
                if made == "plainly":
                    self.snapshot("revert", "top.qcow2", "2", "--overlay", "alt.qcow2")
                else:
                    (self.path / "link.qcow2").symlink_to("base.qcow2")
                    self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "link.qcow2", "-F", "qcow2", "alt.qcow2")
                before = self.flat("alt.qcow2")
                self.assertEqual(self.delete("top.qcow2", "2"), "pull")
                self.assertEqual((self.flat("alt.qcow2") == before, self.flat("top.qcow2") == self.top), (True, True))

    def test_nobody_reads_what_is_told_of_the_first(self):
        """All that was asked for is done nevertheless, and the loss of what was told is a failure."""
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([self.tidemark, "snapshot", "delete", "top.qcow2", "1", "2"], cwd=self.path, env=self.lab.env, stdout=writer,
                              stderr=subprocess.PIPE, text=True, timeout=30, check=False)
        os.close(writer)
        self.assertEqual((done.returncode, done.stderr), (FAILED, "tidemark: done, but its output is lost: Broken pipe\n"))
        self.assertEqual(len(json.loads(self.lab.run(self.tidemark, "--json", "chain", "show", "top.qcow2").stdout)), 1)
        self.assertEqual(self.flat("top.qcow2") == self.top, True)

    def test_what_nobody_else_stands_on_is_committed_to(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "alt.qcow2")
        (self.path / "raw.img").write_bytes(bytes(64 * KiB))
        os.mkfifo(self.path / "fifo")
        self.assertEqual(self.delete("top.qcow2", "2"), "commit")
        self.assertEqual((self.flat("alt.qcow2") == self.top, self.flat("top.qcow2") == self.top), (True, True))

    def test_bitmaps_of_an_image_that_had_the_name(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "over.qcow2", "1M")
        self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
        self.serve("over.qcow2=vda")
        self.run_tidemark("bitmap", "add", "vda", "b", "--persistent")
        self.daemon.kill()
        self.daemon.wait(20)
        self.offline()
        (self.path / "over.qcow2").unlink()
        self.assertTrue((self.path / "over.qcow2.tidemark").exists())
        self.snapshot("create", "top.qcow2=over.qcow2")
        self.assertFalse((self.path / "over.qcow2.tidemark").exists())

    def test_a_name_with_a_colon(self):
        (self.path / "top.qcow2").rename(self.path / "to:p.qcow2")
        self.snapshot("create", f"{self.path}/to:p.qcow2={self.path}/over.qcow2")
        self.assertEqual(self.flat("over.qcow2") == self.top, True)

    def test_a_stale_top_shows_the_disk(self):
        """The file that was the disk before what it held was committed, taken for the disk by mistake."""
        for words in (["snapshot", "delete", "top.qcow2", "1", "--way", "commit"], ["chain", "commit", "top.qcow2", "0", "1"]):
            with self.subTest(words=words):
                self.setUp()
                self.run_tidemark(*words)
                now = "one.qcow2" if words[0] == "snapshot" else "base.qcow2"
                self.assertEqual(self.flat(now) == self.top, True)
                self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 64k 64k", now)
                self.assertEqual(self.flat("top.qcow2") == self.flat(now), True)
                self.lab.run("qemu-img", "check", "-q", "top.qcow2")

    def test_a_layer_that_is_shorter(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "short.qcow2", "1M")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "short.qcow2", "-F", "qcow2", "long.qcow2", "4M")
        before = self.flat("long.qcow2")
        self.assertEqual(before[2 * MiB:] == bytes(2 * MiB), True)
        self.snapshot("delete", "long.qcow2", "2", "--way", "commit")
        self.assertEqual(self.chain("long.qcow2"), ["long.qcow2", "base.qcow2"])
        self.assertEqual(self.flat("long.qcow2") == before, True)

    def stopped_while_it_makes(self, *words):
        """The process, stopped when its file is there and has not its name yet; None when it was too fast."""
        process = self.lab.start(self.tidemark, *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        partial = self.path / "top.qcow2.tidemark-partial"
        while process.poll() is None and not partial.exists():
            pass
        processes.halt(process)
        self.addCleanup(process.kill)
        if process.poll() is None and partial.exists():
            return process
        process.send_signal(signal.SIGCONT)
        self.assertEqual(self.end_of(process)[0], 0)
        return None

    def test_a_guest_that_starts_while_its_disk_is_emptied(self):
        for _ in range(40):
            process = self.stopped_while_it_makes("snapshot", "revert", "top.qcow2", "1", "--discard")
            if process:
                break
        else:
            self.fail("it was always too fast")
        done = self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q 0 64k", "top.qcow2", ok=None)
        process.send_signal(signal.SIGCONT)
        self.assertEqual(self.end_of(process)[0], 0)
        self.assertIn("lock", done.stdout + done.stderr)
        self.assertEqual(self.flat("top.qcow2") == self.flat("one.qcow2"), True)

    def test_a_file_that_another_is_making(self):
        partial = "y.qcow2.tidemark-partial"
        self.lab.run("qemu-img", "create", "-q", "-f", "raw", partial, SIZE)
        self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
        self.serve(f"{self.path / partial}=vda")
        self.offline()
        self.assertIn("lock", self.snapshot("create", "top.qcow2=x.qcow2", "base.qcow2=y.qcow2", expect=FAILED))
        self.assertEqual(self.names(), ["base.qcow2", "one.qcow2", "top.qcow2", partial])

    def test_a_store_that_another_makes_meanwhile(self):
        for _ in range(40):
            (self.path / "top.qcow2").unlink()
            process = self.stopped_while_it_makes("snapshot", "create", "base.qcow2=top.qcow2")
            if process:
                break
        else:
            self.fail("it was always too fast")
        (self.path / "top.qcow2").write_text("another's")
        (self.path / "top.qcow2.tidemark").write_text("what its bitmaps know")
        process.send_signal(signal.SIGCONT)
        status, _, err = self.end_of(process)
        self.assertEqual((status, "exists" in err), (FAILED, True), err)
        self.assertEqual((self.path / "top.qcow2.tidemark").read_text(), "what its bitmaps know")

    def test_two_that_make_one_file(self):
        for n in range(8):
            both = [self.lab.start(self.tidemark, "snapshot", "create", "top.qcow2=a.qcow2", f"{below}.qcow2=both.qcow2",
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for below in ("base", "one")]
            ends = [self.end_of(process)[0] for process in both]
            self.assertIn(FAILED, ends)
            wanted = ["a.qcow2", "both.qcow2"] if 0 in ends else []
            self.assertEqual(self.names(), sorted(["base.qcow2", "one.qcow2", "top.qcow2", *wanted]), (n, ends))
            if wanted:
                self.assertEqual(self.chain("both.qcow2")[1], ("base.qcow2", "one.qcow2")[ends.index(0)])
            for name in wanted:
                (self.path / name).unlink()


class Live(SnapshotBed):
    def begin(self, *snapshots):
        if not (self.path / "vda.qcow2").exists():
            self.make("vda")
        self.serve(f"{self.path}/vda.qcow2=vda")
        self.client = self.qmp()
        for seed, name in enumerate(snapshots, 2):
            self.snapshot("create", "vda", "--name", name)
            self.guest_writes("vda", seed)

    def test_a_snapshot_that_another_takes_meanwhile(self):
        self.begin("a", "b", "c")
        before = self.content("vda")
        process = self.lab.start(self.tidemark, "snapshot", "delete", "vda", "3", "1", "--way", "pull", "--speed", "1M",
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.until(lambda: self.client.execute("query-jobs"), "a job")
        processes.halt(process)                  # or its next job is faster than this on a slow machine
        self.snapshot("create", "vda=vda.d.qcow2")
        process.send_signal(signal.SIGCONT)
        status, out, err = self.end_of(process)
        self.assertEqual((status, "somebody else has changed the chain" in err, out.count("deleted")), (FAILED, True, 1), out + err)
        self.assertEqual([layer["node-name"] for layer in self.json("chain", "show", "vda")], ["vda.d", "vda.c", "vda.b", "vda.a"])
        self.assertEqual(self.content("vda") == before, True)

    def test_what_others_stand_on_is_not_written_to(self):
        self.make("vda")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 8 1M 3M", "vda.qcow2")
        self.begin("a", "b")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{self.path}/vda.qcow2", "-F", "qcow2", "alt.qcow2")
        before, disk = self.flat("alt.qcow2"), self.content("vda")
        self.snapshot("delete", "vda", "2")
        self.assertEqual((self.flat("alt.qcow2") == before, self.content("vda") == disk), (True, True))

    def test_a_file_that_is_not_where_the_daemon_sees_it(self):
        self.begin()
        self.make("named")
        self.lab.run("qemu-img", "snapshot", "-c", "a", "named.qcow2")
        self.client.execute("blockdev-add", driver="qcow2", file={"driver": "file", "filename": "named.qcow2"}, **{"node-name": "named"})
        (self.path / "other").mkdir()
        self.lab.run("cp", "named.qcow2", "other/named.qcow2")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 0 1M", "other/named.qcow2")
        before = self.flat("other/named.qcow2")
        self.lab.env["TIDEMARK_QMP"] = f"{self.path}/qmp.sock"
        state = self.flat("named.qcow2")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 0 1M", "-c", "flush", "named.qcow2", ok=None)
        self.lab.run(self.tidemark, "snapshot", "revert", "--internal", "named", "a", cwd=self.path / "other")
        self.assertEqual((self.flat("other/named.qcow2") == before, self.flat("named.qcow2") == state), (True, True))

    def test_a_name_that_another_takes_meanwhile(self):
        self.begin()
        process = self.lab.start(self.tidemark, "chain", "copy", "vda", "copy.qcow2", "--speed", "512K", stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True)
        self.until(lambda: self.client.execute("query-jobs"), "a job")
        (self.path / "copy.qcow2").write_text("another's")
        status, _, err = self.end_of(process)
        self.assertEqual((status, "exists" in err), (FAILED, True), err)
        self.assertEqual((self.path / "copy.qcow2").read_text(), "another's")
        self.assertEqual(self.names(), ["copy.qcow2", "vda.qcow2"])

    def test_a_copy_that_another_ends(self):
        """Between its being equal and the disk's going over to it."""
        self.begin()
        process = self.lab.start(self.tidemark, "chain", "copy", "vda", "copy.qcow2", "--pivot", stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True)
        self.client.wait_event("BLOCK_JOB_READY")
        self.client.execute("block-job-cancel", device=self.client.execute("query-jobs")[0]["id"])
        status, _, err = self.end_of(process)
        self.assertEqual((status, "somebody else has ended the copy" in err), (FAILED, True), err)
        self.assertEqual(self.names(), ["vda.qcow2"])
        self.assertEqual([node["node-name"] for node in self.json("chain", "show", "vda")], ["vda"])

    def test_another_s_copy_of_the_same_name(self):
        """It is not told to take effect, whose end the command has not seen."""
        self.begin()
        self.make("other")
        self.client.execute("blockdev-add", driver="qcow2", **{"node-name": "other"}, file={"driver": "file", "filename": f"{self.path}/other.qcow2"})
        process = self.lab.start(self.tidemark, "chain", "copy", "vda", "copy.qcow2", "--pivot", "--speed", "64K", stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True)
        self.until(lambda: self.client.execute("query-jobs"), "a job")
        name = self.client.execute("query-jobs")[0]["id"]
        processes.halt(process)
        self.client.execute("job-cancel", id=name)
        self.client.wait_event("JOB_STATUS_CHANGE", id=name, status="null")
        self.client.execute("blockdev-mirror", device="vda", target="other", sync="full", **{"job-id": name})
        self.client.wait_event("BLOCK_JOB_READY", device=name)
        process.send_signal(signal.SIGCONT)
        status, _, err = self.end_of(process)
        self.assertEqual((status, "Operation canceled" in err), (FAILED, True), err)
        self.assertEqual([job["id"] for job in self.client.execute("query-jobs")], [name])
        self.assertEqual([node["node-name"] for node in self.json("chain", "show", "vda")], ["vda"])

    def test_names_of_jobs(self):
        self.begin()
        names = set()
        for n in range(2):
            process = self.lab.start(self.tidemark, "chain", "copy", "vda", "copy.qcow2", "--speed", "64K", stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            self.until(lambda: self.client.execute("query-jobs"), "a job")
            names.add(self.client.execute("query-jobs")[0]["id"])
            self.assertIn(str(process.pid), self.run_tidemark("job", "list").stdout)
            process.send_signal(signal.SIGINT)
            self.end_of(process)
        self.assertEqual(len(names), 2)

    def test_a_copy_that_is_told_to_be_whole_is_durable(self):
        self.begin()
        self.client.execute("blockdev-add", driver="qcow2", **{"node-name": "fast", "cache": {"no-flush": True}},
                            file={"driver": "file", "filename": self.small()})
        process = self.lab.start(self.tidemark, "chain", "copy", "fast", "copy.qcow2", "--speed", "512K", stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True)
        self.until(lambda: self.client.execute("query-jobs"), "a job")
        target, = [node for node in self.client.execute("query-named-block-nodes", flat=True)
                   if node["drv"] == "qcow2" and "copy" in node["file"]]
        self.assertFalse(target["cache"]["no-flush"])
        self.assertEqual(self.end_of(process)[0], 0)

    def small(self):
        self.make("fast")
        return str(self.path / "fast.qcow2")


if __name__ == "__main__":
    unittest.main()
