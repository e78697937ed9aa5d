"""What the end-to-end tests stand on: a temporary directory, the built programs, and disks to try them on.

Each *_test.py is run by CTest with TIDEMARK_BUILD naming the build directory.  Nothing here waits without a
bound, and everything that is started is ended by its pid.
"""
import fcntl
import json
import os
import pathlib
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tools"))
import nbd
from lab import processes
from lab.qmp import Qmp

KiB, MiB = 1 << 10, 1 << 20
DONE, FAILED, USAGE, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 130


class Bed(unittest.TestCase):
    """One Lab for each test; its directory is where programs run, so paths are short."""

    def setUp(self):
        self.lab = processes.Lab("e2e")
        self.lab.__enter__()
        self.addCleanup(self.lab.__exit__)
        self.tidemark, self.tidemarkd = processes.programs()
        self.path = self.lab.path
        self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
        self.daemon = None
        self.loops_attached = set()

    # Disks

    def raw(self, name, size=8 * MiB, seed=1):
        """A raw image: random bytes but for its last quarter, which is a hole."""
        with open(self.path / name, "wb") as file:
            file.write(random.Random(seed).randbytes(size * 3 // 4))
            file.truncate(size)
        return self.path / name

    def qcow2(self, name, size=8 * MiB, seed=1):
        raw = self.raw(name + ".raw", size, seed)
        self.lab.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, name)
        raw.unlink()
        return self.path / name

    def loop_device(self, name, *options):
        """A block device that is a file here, until the end of the test, which is skipped where there is none to be had."""
        try:
            made = self.lab.run("losetup", "-f", "--show", *options, name, ok=None)
        except OSError as error:
            self.skipTest(f"no loop devices here: {error}")
        if made.returncode:
            self.skipTest(f"no loop device here: {made.stderr.strip()}")
        device = made.stdout.strip()
        self.loops_attached.add(device)
        self.addCleanup(self.let_go_of_loop_device, device)
        return device

    def let_go_of_loop_device(self, device):
        if device in self.loops_attached:
            self.loops_attached.remove(device)
            subprocess.run(["losetup", "-d", device], check=True)

    def detach_loop_device(self, device):
        self.let_go_of_loop_device(device)
        shown = pathlib.Path("/sys/block", pathlib.Path(device).name, "loop", "backing_file")

        def gone():
            try:
                return not shown.read_text().startswith(f"{self.path}/")       # another's by now
            except OSError:
                return True
        self.until(gone, "the loop device has let go")

    def disk(self, name="disk"):
        """A connection to an export; closed with the test."""
        handle = nbd.NBD()
        handle.connect_uri(f"nbd+unix:///{name}?socket={self.path / 'nbd.sock'}")
        return handle

    def content(self, name="disk"):
        """All bytes of an export, now."""
        handle = self.disk(name)
        size = handle.get_size()
        data = b"".join(handle.pread(min(MiB, size - at), at) for at in range(0, size, MiB))
        handle.shutdown()
        return data

    def change(self, name="disk", seed=2, count=20):
        """Random writes, zeroes and a trim."""
        rng, handle = random.Random(seed), self.disk(name)
        size = handle.get_size()
        for _ in range(count):
            handle.pwrite(rng.randbytes(4096), rng.randrange(size // 4096) * 4096)
        handle.zero(100 * KiB, 300 * KiB)
        handle.trim(64 * KiB, 1 * MiB)
        handle.shutdown()

    # Programs

    def serve(self, *disks, options=()):
        """tidemark serve of the given FILE=NAMEs; ready when it returns."""
        self.daemon = self.lab.start(self.tidemark, "serve", *disks, "--nbd", "nbd.sock", *options,
                                     stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.daemon.stdout.close)
        for name in ("nbd.sock", "qmp.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        return self.daemon

    def run_tidemark(self, *words, expect=DONE):
        done = self.lab.run(self.tidemark, *words, ok=None, timeout=60)
        self.assertEqual(done.returncode, expect, f"tidemark {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
        return done

    def fails(self, *words, expect=FAILED):
        """Runs tidemark, which has to fail with one line on stderr: that line."""
        done = self.run_tidemark(*words, expect=expect)
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertTrue(lines[0].startswith("tidemark: "), lines[0])
        return lines[0]

    def json(self, *words, expect=DONE):
        return json.loads(self.run_tidemark("--json", *words, expect=expect).stdout)

    def qmp(self):
        client = Qmp(self.path / "qmp.sock")
        self.addCleanup(client.close)
        return client

    # Documents

    def run_guide(self, page, begin="", end=None, also=()):
        """The commands of a page of docs/guide, from the text `begin` to `end`, and in such pieces `also`, as they stand there, with
        the daemon that they start; what they print.  What they leave is there afterwards, but for the daemon."""
        whole = (processes.ROOT / "docs" / "guide" / page).read_text(encoding="utf-8")
        text = "\n".join(whole[whole.index(first):whole.index(last) if last else None] for first, last in ((begin, end), *also))
        commands = [line for block in text.split("```\n")[1::2] for line in block.splitlines()]
        self.lab.env["PATH"] = f"{self.tidemark.parent}:{self.lab.env['PATH']}"
        daemon, printed = None, ""
        for command in commands:
            if command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                self.lab.env[name] = value.replace("$PWD", str(self.path))
            elif command.startswith("unset "):
                del self.lab.env[command.removeprefix("unset ")]
            elif command.endswith("&"):
                named = re.search(r" --qmp (\S+)", command)
                socket = named[1].replace("$PWD", str(self.path)) if named else self.lab.env["TIDEMARK_QMP"]
                started = self.lab.start("bash", "-c", "exec " + command.removesuffix("&"), stdout=subprocess.DEVNULL)
                processes.wait_for_socket(pathlib.Path(socket), started)
                if nbd_socket := re.search(r" --nbd (\S+)", command):
                    processes.wait_for_socket(pathlib.Path(nbd_socket[1].replace("$PWD", str(self.path))), started)
                daemon = daemon or started
            elif command == "tidemark qmp quit":
                self.run_tidemark("qmp", "quit")
                self.assertEqual(daemon.wait(20), 0)
            else:
                done = self.lab.run("bash", "-c", command, ok=None, timeout=60)
                self.assertEqual((done.returncode, done.stderr), (DONE, ""), f"{command}\n{done.stdout}{done.stderr}")
                printed += done.stdout
        if daemon.poll() is None:
            self.run_tidemark("qmp", "quit")
            self.assertEqual(daemon.wait(20), 0)
        return printed

    # What has to hold

    def backup(self, *words, level=None):
        """Takes a point of all disks and returns its description."""
        point = self.json("backup", "backups", *words)
        if level:
            self.assertEqual([disk["level"] for disk in point["disks"]], [level] * len(point["disks"]))
        return point

    def restored(self, point, disk=None, directory="backups"):
        name = f"restored-{point}"
        self.run_tidemark("restore", directory, point, "--to", name, *(["--disk", disk] if disk else []))
        data = (self.path / name).read_bytes()
        (self.path / name).unlink()
        return data

    def assert_restores(self, point, data, disk=None):
        self.assertEqual(first_difference(self.restored(point, disk), data), None)

    def state(self):
        """What a backup must leave as it was: nodes, bitmaps and jobs of the daemon, and the directory's names."""
        with Qmp(self.path / "qmp.sock") as qmp:
            nodes = qmp.execute("query-named-block-nodes")
            bitmaps = sorted((node["node-name"], bitmap["name"], bitmap["recording"], bitmap["busy"])
                             for node in nodes for bitmap in node.get("dirty-bitmaps", ()))
            return {"nodes": sorted(node["node-name"] for node in nodes if not node["node-name"].startswith("#")),
                    "count": len(nodes), "bitmaps": bitmaps, "jobs": [job["id"] for job in qmp.execute("query-jobs")],
                    "points": self.names_of_points()}

    def names_of_points(self):
        points = self.path / "backups" / "points"
        return sorted(entry.name for entry in points.iterdir()) if points.exists() else []

    def until(self, condition, what, patience=20):
        end = time.monotonic() + patience
        while not condition():
            if time.monotonic() > end:
                self.fail(f"not within {patience} s: {what}")
            time.sleep(0.02)

    def start_slow_backup(self, *words):
        """A backup that would take a minute, once its job runs."""
        process = self.lab.start(self.tidemark, "backup", "backups", "--speed", "128K", *words,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with Qmp(self.path / "qmp.sock") as qmp:
            self.until(lambda: any(job["status"] == "running" for job in qmp.execute("query-jobs")), "a job that runs")
        return process

    def catches(self, process, number):
        """Whether a process has a handler for a signal by now."""
        text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        return bool(int(re.search(r"^SigCgt:\s*(\w+)$", text, re.MULTILINE)[1], 16) >> (number - 1) & 1)

    def start_on_terminal(self, *words, columns=80):
        """tidemark whose standard error is a terminal: the process, and the terminal's other end."""
        ours, theirs = os.openpty()
        self.addCleanup(os.close, ours)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = self.lab.start(self.tidemark, *words, stdout=subprocess.PIPE, stderr=theirs, text=True)
        os.close(theirs)
        return process, ours

    def until_shown(self, terminal, pattern, patience=20):
        """Reads a terminal until what it shows matches; all that was read."""
        shown, end = "", time.monotonic() + patience
        while not re.search(pattern, shown):
            ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
            if not ready:
                self.fail(f"not within {patience} s: {pattern!r} in {shown!r}")
            shown += os.read(terminal, 65536).decode()
        return shown

    def end_of(self, process, patience=30):
        out, err = process.communicate(timeout=patience)
        return self.lab.ended(process), out, err


def first_difference(a, b):
    """Where two contents differ first; None when they do not (unittest would print megabytes)."""
    if a == b:
        return None
    return next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


__all__ = [name for name in dir() if not name.startswith("_")]
