"""tidemark image, ended by a kill or another program's lock: what is there reads as before or as asked for."""
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import unittest

from bed import DONE, INTERRUPTED, KiB, MiB, processes
from image_bed import ImageBed


class Killed(ImageBed):
    """Each verb that writes, killed again and again at some moment of its run; what holds, holds at each."""

    def setUp(self):
        super().setUp()
        self.rng = random.Random(7)

    def killed(self, *words):
        """Whether it came to its end before."""
        process = self.lab.start(self.tidemark, "image", *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(self.rng.random() * 0.12)
        process.kill()
        process.wait(timeout=30)
        return self.lab.ended(process) == DONE

    def raw_of(self, name, *words):
        self.qemu_img("convert", "-O", "raw", *words, name, "out.raw")
        data = (self.path / "out.raw").read_bytes()
        (self.path / "out.raw").unlink()
        return data

    def assert_sound(self, name):
        """Nothing is wrong with it but leaks."""
        done = self.qemu_img("check", "--output=json", name, ok=None)
        self.assertIn(done.returncode, (0, 3), done.stdout + done.stderr)
        self.assertNotIn("corruptions", json.loads(done.stdout))
        self.assertFalse(self.qemu_info(name)["format-specific"]["data"].get("corrupt"))

    def test_snapshots(self):
        self.make("a.qcow2", "-o", "cluster_size=4k")
        now = self.raw_of("a.qcow2")
        for n in range(12):
            for words in (["-c", "x"], ["-a", "x"], ["-d", "x"]):
                self.killed("snapshot", *words, "a.qcow2")
                self.assert_sound("a.qcow2")
                self.assertEqual(self.raw_of("a.qcow2") == now, True)
        self.image("check", "-r", "all", "a.qcow2")
        self.qemu_check("a.qcow2")

    def test_amend_and_bitmap(self):
        self.make("a.qcow2", "-o", "cluster_size=4k")
        now = self.raw_of("a.qcow2")
        for n in range(10):
            self.killed("amend", "-o", f"refcount_bits={self.rng.choice([1, 8, 64])}", "a.qcow2")
            self.killed("bitmap", "--add", "a.qcow2", f"b{n}")
            self.assert_sound("a.qcow2")
            self.assertEqual(self.raw_of("a.qcow2") == now, True)
        self.image("check", "-r", "all", "a.qcow2")
        self.qemu_check("a.qcow2")

    def test_resize(self):
        self.make("a.qcow2", "-o", "cluster_size=4k")
        size, now = 64 * MiB, self.raw_of("a.qcow2")
        for n in range(10):
            self.killed("resize", "--preallocation=metadata", "a.qcow2", f"{65 + n}M")
            self.assert_sound("a.qcow2")
            data = self.raw_of("a.qcow2")
            self.assertTrue(data.startswith(now) and not any(data[size:]))
            self.image("resize", "--shrink", "a.qcow2", "64M")

    def test_commit_and_rebase(self):
        self.make("base.qcow2", seed=1)
        self.make("other.qcow2", seed=2)
        for n in range(8):
            self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
            self.scribble("top.qcow2", seed=n + 3)
            now = self.raw_of("top.qcow2")
            for words in (["rebase", "-b", "other.qcow2", "-F", "qcow2"], ["rebase", "-b", "base.qcow2", "-F", "qcow2"], ["commit"]):
                done = self.killed(*words, "top.qcow2")
                for name in ("top.qcow2", "base.qcow2", "other.qcow2"):
                    self.assert_sound(name)
                self.assertEqual(self.raw_of("top.qcow2") == now, True, (n, words, done))
            self.image("commit", "top.qcow2")
            self.assertEqual(self.raw_of("top.qcow2") == now, True)

    def test_new_files(self):
        """A name appears with what is whole, or not at all; its data file never without."""
        self.raw("a.raw", size=16 * MiB)
        for n in range(16):
            words, name = (((["-O", "qcow2"], "t.qcow2"), (["-O", "raw"], "t.raw"), (["-O", "qcow2", "-c"], "t.qcow2"),
                            (["-O", "qcow2", "-o", f"data_file=d{n}.raw,data_file_raw=on"], "t.qcow2"))[n % 4])
            (self.path / name).unlink(missing_ok=True)
            self.killed("convert", *words, "a.raw", name)
            if name in self.names():
                self.assertIn("identical", self.qemu_img("compare", "-F", words[1], "-f", "raw", "a.raw", name).stdout)
            if f"d{n}.raw" in self.names():
                self.assertIn("identical", self.qemu_img("compare", "-F", "raw", "-f", "raw", "a.raw", f"d{n}.raw").stdout)
        for n in range(6):
            (self.path / "c.qcow2").unlink(missing_ok=True)
            self.killed("create", "-f", "qcow2", "-o", f"preallocation=full,data_file=e{n}.raw", "c.qcow2", "8M")
            if "c.qcow2" in self.names():
                self.qemu_check("c.qcow2")

    def test_ctrl_c(self):
        self.raw("a.raw", size=64 * MiB)
        process = self.lab.start(self.tidemark, "image", "convert", "-r", "1M", "-m", "1", "-O", "qcow2", "-o", "data_file=d.raw", "a.raw",
                                 "t.qcow2", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.until(lambda: (self.path / "d.raw.tidemark-partial").exists() and self.catches(process, signal.SIGINT), "a file under way")
        process.send_signal(signal.SIGINT)
        status, _, err = self.end_of(process)
        self.assertEqual((status, err), (INTERRUPTED, "tidemark: interrupted; nothing was left behind\n"))
        self.assertEqual(self.names(), ["a.raw"])

    def test_ctrl_c_while_tables_are_in_memory(self):
        """All of a large disk leads to one table, whose every second cluster is data: there is no wait for a file."""
        with open(self.path / "a.qcow2", "wb") as file:
            entries, at = 4 << 20, 64 * KiB
            l1 = 4 * at
            header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, entries << 29, 0, entries, l1, at, 1, 0, 0)
            file.write(header)
            file.seek(at)
            file.write(struct.pack(">Q", 2 * at))
            file.seek(3 * at)
            file.write(struct.pack(">QQ", 0x80 * at | 1 << 63, 0) * (at // 16))
            file.seek(l1)
            for n in range(32):
                file.write(struct.pack(">Q", 3 * at) * (entries // 32))
            file.truncate(l1 + entries * 8 + 0x80 * at)
        for words in (["measure", "-O", "raw", "a.qcow2"], ["map", "a.qcow2"]):
            process = self.lab.start(self.tidemark, "image", *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self.until(lambda: self.catches(process, signal.SIGTERM), "it to begin")
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            self.assertEqual(self.end_of(process, patience=30)[0], INTERRUPTED, words)
            self.assertLess(time.monotonic() - begun, 10, words)

    def test_ctrl_c_that_comes_too_late(self):
        """What was done by then is done: its last flush takes longer than is waited for."""
        if not shutil.which("strace"):
            self.skipTest("strace is not here")
        self.raw("a.raw", size=4 * MiB)
        words = ["convert", "-O", "qcow2", "a.raw", "t.qcow2"]
        self.end_of(self.with_slow_flushes("0", *words))
        last = self.flushes()
        (self.path / "t.qcow2").unlink()
        process = self.with_slow_flushes("3s", *words)
        self.until(lambda: self.flushes() == last, "the last flush", patience=60)
        os.kill(self.leader_of(int((self.path / "trace").read_text(encoding="utf-8").split()[0])), signal.SIGINT)
        status, _, err = self.end_of(process, patience=60)
        self.assertEqual((status, err), (DONE, ""))
        self.assertIn("identical", self.qemu_img("compare", "-f", "raw", "-F", "qcow2", "a.raw", "t.qcow2").stdout)

    def with_slow_flushes(self, delay, *words):
        (self.path / "trace").unlink(missing_ok=True)
        return self.lab.start("strace", "-f", "-o", "trace", "-e", "trace=fdatasync,fsync", "-e", f"inject=fdatasync,fsync:delay_enter={delay}",
                              self.tidemark, "--aio", "threads", "image", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def flushes(self):
        trace = self.path / "trace"
        return len(re.findall(r"^\d+ +fd?a?t?a?sync\(", trace.read_text(encoding="utf-8"), re.MULTILINE)) if trace.exists() else 0

    def leader_of(self, thread):
        return int(re.search(r"^Tgid:\s*(\d+)$", pathlib.Path(f"/proc/{thread}/status").read_text(), re.MULTILINE)[1])

    def interrupted_when_large(self, name, *words):
        process = self.lab.start(self.tidemark, "image", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        file = self.path / name
        self.until(lambda: file.exists() and file.stat().st_blocks * 512 > 8 * MiB and self.catches(process, signal.SIGINT), "space")
        process.send_signal(signal.SIGINT)
        status, _, err = self.end_of(process)
        self.assertEqual(status, INTERRUPTED, err)
        self.assertRegex(err, r"\Atidemark: interrupted.*\n\Z")

    def test_ctrl_c_while_space_is_made(self):
        for form in ("raw", "qcow2"):
            self.interrupted_when_large("a.tidemark-partial", "create", "-f", form, "-o", "preallocation=full", "a", "8G")
            self.assertEqual(self.names(), [])
            self.image("create", "-f", form, "a", "1M")
            self.interrupted_when_large("a", "resize", "-f", form, "--preallocation=full", "a", "8G")
            info = self.json("image", "info", "-f", form, "a")
            self.assertEqual(info["virtual-size"], MiB)
            self.assertLess(info["actual-size"], 8 * MiB)
            (self.path / "a").unlink()

    def test_ctrl_c_while_a_server_says_nothing(self):
        """In its greeting, or in the middle of a transfer."""
        self.raw("a.raw", size=4 * MiB)
        mute = socket.socket(socket.AF_UNIX)
        self.addCleanup(mute.close)
        mute.bind(str(self.path / "mute"))
        mute.listen(8)
        server = self.lab.start("qemu-nbd", "-f", "raw", "-k", str(self.path / "n.sock"), "-t", "a.raw")
        self.until(lambda: (self.path / "n.sock").exists(), "qemu-nbd")
        processes.halt(server)              # it is connected to, and says nothing
        self.raw("b.raw", size=4 * MiB)
        for uri in ("nbd+unix:///?socket=mute", "nbd+unix:///?socket=n.sock"):
            for words in (["convert", uri, "o"], ["convert", "b.raw", uri], ["map", uri], ["compare", uri, "b.raw"], ["info", uri],
                          ["measure", uri], ["convert", "-n", "-O", "qcow2", "b.raw", uri]):
                process = self.lab.start(self.tidemark, "image", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                self.until(lambda: self.catches(process, signal.SIGINT), "it to begin")
                time.sleep(0.1)
                process.send_signal(signal.SIGINT)
                begun = time.monotonic()
                status, _, err = self.end_of(process)
                self.assertEqual(status, INTERRUPTED, (words, err))
                if words[-1] == uri and words[0] == "convert":
                    self.assertEqual(err, f"tidemark: interrupted; '{uri}' is as it was\n")
                self.assertLess(time.monotonic() - begun, 15, words)
        server.send_signal(signal.SIGCONT)
        self.assertEqual(self.names(), ["a.raw", "b.raw", "mute", "n.sock"])


class Locks(ImageBed):
    """Beside a qemu-storage-daemon that has the image open."""

    def qsd(self, name, read_only):
        flag = "on" if read_only else "off"
        process = self.lab.start("qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={name},read-only={flag}",
                                 "--blockdev", f"qcow2,node-name=q,file=f,read-only={flag}",
                                 "--nbd-server", f"addr.type=unix,addr.path={self.path}/qsd.sock",
                                 "--export", f"nbd,id=e,node-name=q,name=q,writable={'off' if read_only else 'on'}")
        processes.wait_for_socket(self.path / "qsd.sock", process)
        return process

    def test_one_that_is_written_to(self):
        self.make("a.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2")
        self.raw("x.raw")
        process = self.qsd("a.qcow2", False)
        reading = (["info"], ["check"], ["map"], ["measure", "-O", "raw"], ["snapshot", "-l"])
        for words in reading:
            self.assertIn("lock", self.fails("image", *words, "a.qcow2"), words)
            self.image(words[0], "-U", *words[1:], "a.qcow2", expect=DONE)
        self.assertIn("lock", self.fails("image", "convert", "a.qcow2", "out.raw"))
        self.image("convert", "-U", "a.qcow2", "out.raw")
        self.assertIn("lock", self.fails("image", "compare", "a.qcow2", "out.raw", expect=2))
        self.image("compare", "-U", "a.qcow2", "out.raw")
        for words in (["create", "-f", "qcow2", "a.qcow2", "1M"], ["convert", "-O", "qcow2", "x.raw", "a.qcow2"],
                      ["convert", "-n", "-O", "qcow2", "x.raw", "a.qcow2"], ["check", "-r", "all", "a.qcow2"], ["resize", "a.qcow2", "+1M"],
                      ["rebase", "-u", "-b", "", "a.qcow2"], ["commit", "top.qcow2"], ["amend", "-o", "compat=0.10", "a.qcow2"],
                      ["snapshot", "-c", "x", "a.qcow2"], ["bitmap", "--add", "a.qcow2", "b"]):
            self.assertIn("lock", self.fails("image", *words), words)
        process.terminate()
        self.end_of(process)
        self.qemu_check("a.qcow2")
        self.assertEqual([name for name in self.names() if "partial" in name], [])

    def test_one_that_is_read(self):
        self.make("a.qcow2")
        process = self.qsd("a.qcow2", True)
        for words in (["info"], ["check"], ["map"], ["snapshot", "-l"]):
            self.image(*words, "a.qcow2")
        for words in (["resize", "a.qcow2", "+1M"], ["snapshot", "-c", "x", "a.qcow2"], ["amend", "-o", "lazy_refcounts=on", "a.qcow2"],
                      ["check", "-r", "all", "a.qcow2"], ["bitmap", "--add", "a.qcow2", "b"]):
            self.assertIn("lock", self.fails("image", *words), words)
        process.terminate()
        self.end_of(process)

    def test_qemu_finds_ours(self):
        """A verb under way keeps QEMU from writing, and from reading what is written to."""
        self.raw("a.raw", size=64 * MiB)
        self.make("t.qcow2")
        process = self.lab.start(self.tidemark, "image", "convert", "-r", "1M", "-m", "1", "-n", "-O", "qcow2", "a.raw", "t.qcow2",
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Not by trying: qemu-img's lock would be in the way of ours.
        inode = f":{os.stat(self.path / 't.qcow2').st_ino} "
        self.until(lambda: inode in pathlib.Path("/proc/locks").read_text(encoding="utf-8"), "a lock of ours")
        self.assertIn("lock", self.qemu_img("info", "t.qcow2", ok=None).stderr)
        self.qemu_img("info", "-U", "t.qcow2")
        done = self.lab.run("qemu-io", "-f", "raw", "-c", "write 0 4k", "a.raw", ok=None)
        self.assertIn("lock", done.stderr + done.stdout)
        self.qemu_img("info", "a.raw")
        process.kill()
        self.end_of(process)


if __name__ == "__main__":
    unittest.main()
