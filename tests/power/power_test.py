"""Power cuts.  The daemon works on a file system that writes down every write and every flush (journal_fs.cpp) while a
guest writes and incremental backups are taken.  Then the power is cut at chosen moments of that journal: the files are
made what they may be then (journal.py), and the real daemon opens them.  Each time

* what the guest had flushed is there,
* qcow2 has leaked clusters at most,
* the last finished backup is its point,
* the bitmap is there, and an incremental backup by it, on top of that point, is the disk.

A disk that says that it has flushed but has not is found out: that is a test, too.
TM_POWER_CUTS is the number of cuts for each format, TM_POWER_SEED the first seed.
"""
import errno
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
import journal
from bed import KiB, MiB, Bed, first_difference
from lab import processes
from lab.qmp import Qmp

CUTS, SEED = int(os.environ.get("TM_POWER_CUTS", 20)), int(os.environ.get("TM_POWER_SEED", 1))
DISK, BLOCK, GRANULE = 4 * MiB, 4 * KiB, 16 * KiB
POINTS = 4
MARKS = "marks"
ZERO = bytes(BLOCK)
BY_ID = pathlib.Path("/dev/disk/by-id")


class Wrong(Exception):
    """What a power cut must not do."""


def block_of(number, version):
    """A block's content: each sector names itself and the write it comes from."""
    return b"".join(struct.pack(">QQ", number * 8 + sector, version) * 32 for sector in range(BLOCK // 512))


class Guest:
    """Writes, and knows what it wrote: {block: (version, content)} as of now; versions count all writes."""

    def __init__(self, disk, seed):
        self.disk, self.rng = disk, random.Random(seed)
        self.version = 0
        self.blocks = {}
        self.begun = {}                          # block: {version: content}, all that were begun

    def write_some(self):
        """Several at a time; when this returns none is under way."""
        busy = set()
        for _ in range(self.rng.randint(1, 6)):
            first = self.rng.randrange(DISK // BLOCK - 4)
            run = range(first, first + self.rng.choice((1, 1, 1, 2, 4)))
            if not busy.isdisjoint(run):
                continue
            busy.update(run)
            self.version += 1
            zero = self.rng.random() < 0.1
            for block in run:
                content = ZERO if zero else block_of(block, self.version)
                self.begun.setdefault(block, {})[self.version] = content
                self.blocks[block] = self.version, content
            if zero:
                self.disk.aio_zero(len(run) * BLOCK, first * BLOCK, self.done)
            else:
                self.disk.aio_pwrite(b"".join(self.blocks[block][1] for block in run), first * BLOCK, self.done)
        while self.disk.aio_in_flight():
            self.disk.poll(-1)

    @staticmethod
    def done(error):
        if error.value:
            raise OSError(error.value, "the disk refused a write")
        return 1


def dead_mounts():
    """Where runs that were killed outright have left a journal_fs without its process."""
    dead = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        place, kind = pathlib.Path(line.split()[4]), line.split(" - ")[1]
        if "journal_fs" not in kind or not place.parent.name.startswith("tidemark-e2e-"):
            continue
        try:
            os.stat(place)
        except OSError as gone:
            if gone.errno == errno.ENOTCONN:
                dead.append(place)
    return dead


def loops_over(place):
    """Loop devices over files below a directory."""
    devices = json.loads(subprocess.run(["losetup", "--json", "--list"], capture_output=True, check=True).stdout or "{}")
    return [device["name"] for device in devices.get("loopdevices", ())
            if device["back-file"] and device["back-file"].startswith(f"{place}/")]


def clear_away(place):
    """A mount that nobody serves any more, and all that stood beside it."""
    (BY_ID / f"wwn-{place.parent.name}").unlink(missing_ok=True)
    if shutil.which("losetup"):
        for device in loops_over(place):
            subprocess.run(["losetup", "-d", device], check=False)
    subprocess.run(["umount", "-l", place], check=True)
    shutil.rmtree(place.parent, ignore_errors=True)


class PowerCut(Bed):
    def setUp(self):
        if not os.path.exists("/dev/fuse"):
            self.skipTest("no /dev/fuse here: power cuts cannot be made")
        super().setUp()
        for place in dead_mounts():
            clear_away(place)
        self.loop, self.named = None, BY_ID / f"wwn-{self.path.name}"
        self.journal = self.path / "journal"
        self.file_system = self.serve_files(self.path)
        self.addCleanup(self.lab.stop, self.file_system)

    def serve_files(self, place):
        for name in ("backing", "mount"):
            (place / name).mkdir()
        server = self.lab.start(self.tidemark.parent / "journal_fs", place / "backing", place / "journal", place / "mount")
        self.until(lambda: os.path.ismount(place / "mount"), "the file system is mounted")
        return server

    def attach(self):
        """The disk is a loop device over the image; what of it is in the page cache is lost with the power.

        It has a name that is its own, as disks have: by that it is known again.  A file by FUSE, which tells no time of birth, gives it none."""
        made = subprocess.run(["losetup", "--show", "-f", self.path / "mount" / self.image], capture_output=True, text=True)
        if made.returncode:
            self.skipTest(f"no loop device here: {made.stderr.strip()}")
        self.loop = made.stdout.strip()
        self.addCleanup(self.detach)
        BY_ID.mkdir(parents=True, exist_ok=True)
        self.named.symlink_to(self.loop)

    def detach(self):
        if self.loop:
            self.named.unlink(missing_ok=True)
            subprocess.run(["losetup", "-d", self.loop], check=True)
            gone, self.loop = self.loop, None
            self.until(lambda: gone not in loops_over(self.path / "mount"), "the loop device has let go")

    # What is written down

    def record(self, kind, seed):
        """A disk, a guest, incremental backups; then no daemon any more."""
        self.kind, self.image = kind, "disk.raw" if kind == "loop" else f"disk.{kind}"
        backing = self.path / "backing"
        self.initial = random.Random(seed).randbytes(DISK // 2) + bytes(DISK // 2)
        (backing / "disk.raw").write_bytes(self.initial)
        if kind == "qcow2":
            self.lab.run("qemu-img", "convert", "-O", "qcow2", "-o", "cluster_size=16k", "backing/disk.raw", f"backing/{self.image}")
            (backing / "disk.raw").unlink()
        for number in range(POINTS):
            below = ["-b", f"point{number - 1}.qcow2", "-F", "qcow2"] if number else []
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *below, f"backing/point{number}.qcow2", DISK)
        (backing / MARKS).touch()
        self.before = {f"/{file.name}": file.read_bytes() for file in backing.iterdir()}
        self.marks = os.open(self.path / "mount" / MARKS, os.O_WRONLY)
        self.start(direct=seed % 2 == 0)
        disk = self.disk()
        self.guest = guest = Guest(disk, seed)
        self.flushes, self.points = [{}], []
        for number in range(POINTS):
            self.write_on(guest, 12)
            self.points.append(dict(guest.blocks))
            self.mark(f"begin {number}")
            self.begin_backup(number)
            self.mark(f"begun {number}")
            while self.client.execute("query-jobs")[0]["status"] != "concluded":
                self.write_on(guest, 1)
            self.assertNotIn("error", self.client.execute("query-jobs")[0])
            self.client.execute("job-dismiss", id="j")
            self.mark(f"done {number}")
            self.client.execute("blockdev-del", node_name="target")
        self.write_on(guest, 12)
        disk.shutdown()
        self.kill()
        os.close(self.marks)
        self.records = journal.read(self.journal)

    def write_on(self, guest, times):
        for _ in range(times):
            guest.write_some()
            if guest.rng.random() < 0.3:
                blocks = dict(guest.blocks)
                guest.disk.flush()
                self.flushes.append(blocks)
                self.mark(f"flush {len(self.flushes) - 1}")

    def mark(self, text):
        """In the journal, after all that has been answered."""
        os.pwrite(self.marks, text.encode(), 0)

    def begin_backup(self, number):
        self.client.execute("blockdev-add", driver="qcow2", node_name="target", backing=None,
                            file={"driver": "file", "filename": f"mount/point{number}.qcow2"})
        job = {"job-id": "j", "device": "disk", "target": "target", "auto-dismiss": False, "speed": 8 * MiB,
               "sync": "full"}
        actions = [{"type": "blockdev-backup", "data": job}]
        if number:
            job.update({"sync": "incremental", "bitmap": "b"})
        else:
            bitmap = {"node": "disk", "name": "b", "persistent": True, "granularity": GRANULE}
            actions.insert(0, {"type": "block-dirty-bitmap-add", "data": bitmap})
        self.client.execute("transaction", actions=actions)

    def start(self, direct=False):
        if self.kind == "loop":
            self.attach()
            node = {"driver": "host_device", "node-name": "disk", "filename": self.loop, "cache": {"direct": direct},
                    "tracking": {"store": "mount/disk.tidemark"}}
        else:
            file = {"driver": "file", "filename": f"mount/{self.image}", "cache": {"direct": direct}}
            node = {"driver": self.kind, "node-name": "disk", "file": file}
        with open(self.path / "daemon.log", "a") as log:
            self.daemon = self.lab.start(self.tidemarkd, *self.daemon_options(node), stderr=log)
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = Qmp(self.path / "qmp.sock")
        self.until(lambda: self.client.execute("query-block-exports"), "the export")

    @staticmethod
    def daemon_options(node):
        return ("--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "chardev=c",
                "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--blockdev", json.dumps(node),
                "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on")

    def kill(self):
        self.client.close()
        self.daemon.kill()
        self.daemon.wait()
        self.lab.ended(self.daemon)
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)
        self.detach()

    # What is cut, and what has to hold then

    def cuts(self, rng, count):
        """Moments: half of them right behind something durable, half anywhere."""
        after = [n + 1 for n, record in enumerate(self.records) if record.kind == "sync" or record.path == f"/{MARKS}"]
        return sorted(rng.choice(after) if rng.random() < 0.5 else rng.randint(1, len(self.records)) for _ in range(count))

    def states(self, rng, count, lies=()):
        """(moment, files) after cuts, in the order of their moments."""
        disk, taken = journal.Disk(self.before, lies), 0
        for moment in self.cuts(rng, count):
            for record in self.records[taken:moment]:
                disk.take(record)
            taken = moment
            yield moment, disk.after_cut(rng)

    def known(self, moment):
        """What the guest had been told: its last flush, the backups begun, and done, and whether the bitmap was there."""
        flush, begun, done, added = 0, -1, -1, False
        for record in self.records[:moment]:
            if record.path == f"/{MARKS}":
                word, number = record.data.decode().split()
                if word == "flush":
                    flush = int(number)
                elif word == "begin":
                    begun = int(number)
                elif word == "done":
                    done = int(number)
                else:
                    added = True
        return self.flushes[flush], begun, done, added

    def check(self, moment, files):
        """Raises Wrong when a power cut has done what it must not."""
        flushed, begun, done, added = self.known(moment)
        backing = self.path / "backing"
        for file in backing.iterdir():
            if f"/{file.name}" not in files:
                file.unlink()
        for path, content in files.items():
            with open(backing / path[1:], "r+b" if (backing / path[1:]).exists() else "wb") as file:
                file.truncate(0)
                file.write(content)
        if self.kind == "qcow2":
            self.check_qcow2()
        if done >= 0 and (at := first_difference(self.converted(backing / f"point{done}.qcow2"), self.content_of(done))) is not None:
            raise Wrong(f"finished backup {done} is not its point at {at}")
        self.start()
        try:
            content = self.content()
            self.check_flushed(content, flushed)
            if added:
                self.check_bitmap(content, begun, done)
        finally:
            self.kill()

    def check_qcow2(self):
        done = self.lab.run("qemu-img", "check", f"backing/{self.image}", ok=None)
        if done.returncode not in (0, 3):
            raise Wrong(f"qemu-img check: {done.stdout}{done.stderr}")

    def check_flushed(self, content, flushed):
        for block in range(DISK // BLOCK):
            at = block * BLOCK
            least, expected = flushed.get(block, (0, self.initial[at:at + BLOCK]))
            found = content[at:at + BLOCK]
            if found == expected:
                continue
            since = [written for version, written in self.guest.begun.get(block, {}).items() if version >= least]
            for sector in range(0, BLOCK, 512):
                part = found[sector:sector + 512]
                if part != expected[sector:sector + 512] and all(part != other[sector:sector + 512] for other in since):
                    raise Wrong(f"what was flushed is gone at {at + sector}")

    def check_bitmap(self, content, begun, done):
        """By an incremental backup: on top of the bitmap's point it has to be the disk."""
        bitmaps = [bitmap for node in self.client.execute("query-named-block-nodes") if node["node-name"] == "disk"
                   for bitmap in node.get("dirty-bitmaps", ())]
        if [bitmap["name"] for bitmap in bitmaps] != ["b"]:
            raise Wrong("the bitmap is gone")
        if bitmaps[0].get("inconsistent"):
            raise Wrong(f"the bitmap is inconsistent: {bitmaps[0]}")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "next.qcow2", DISK)
        self.client.execute("blockdev-add", driver="qcow2", node_name="target",
                            file={"driver": "file", "filename": "next.qcow2"})
        self.client.execute("blockdev-backup", job_id="j", device="disk", target="target", sync="incremental", bitmap="b",
                            auto_dismiss=False)
        error = self.client.wait_job("j").get("error")
        if error:
            raise Wrong(f"the incremental backup failed: {error}")
        self.client.execute("blockdev-del", node_name="target")
        self.assertEqual(first_difference(self.content(), content), None)
        wrong = self.wrong_on_top_of(max(done, 0), content)
        # A backup whose end nobody was told may have ended: then it is complete.
        if wrong is not None and begun > done >= 0:
            complete = first_difference(self.converted(self.path / "backing" / f"point{begun}.qcow2"), self.content_of(begun)) is None
            if complete:
                wrong = self.wrong_on_top_of(begun, content)
        if wrong is not None:
            raise Wrong(f"the bitmap, of point {max(done, 0)}, does not cover what differs at {wrong}")

    def wrong_on_top_of(self, number, content):
        (self.path / "base.raw").write_bytes(self.content_of(number))
        self.lab.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "base.raw", "next.qcow2")
        return first_difference(self.converted(self.path / "next.qcow2"), content)

    def converted(self, image):
        done = self.lab.run("qemu-img", "convert", "-O", "raw", image, "converted.raw", ok=None)
        return (self.path / "converted.raw").read_bytes() if done.returncode == 0 else b""

    def content_of(self, number):
        content = bytearray(self.initial)
        for block, (_, written) in self.points[number].items():
            content[block * BLOCK:(block + 1) * BLOCK] = written
        return bytes(content)

    def survives(self, kind):
        self.record(kind, SEED)
        rng = random.Random(SEED)
        for moment, files in self.states(rng, CUTS):
            try:
                self.check(moment, files)
            except (Wrong, processes.Failure) as wrong:
                self.fail(f"{kind}, seed {SEED}: cut after {moment} of {len(self.records)} records: {wrong}")

    def test_raw(self):
        self.survives("raw")

    def test_qcow2(self):
        self.survives("qcow2")

    def need_loops(self):
        if not os.path.exists("/dev/loop-control") or not shutil.which("losetup") or os.geteuid():
            self.skipTest("no loop devices here: power cuts of block devices cannot be made")

    def test_a_loop_device(self):
        self.need_loops()
        self.survives("loop")

    def test_a_loop_device_that_loses_flushes_is_found_out(self):
        self.need_loops()
        self.find_out("loop", (("disk.raw", "what was flushed is gone"), ("disk.tidemark", "the bitmap")))

    def test_what_a_killed_run_has_left_is_cleared_away(self):
        left = pathlib.Path(tempfile.mkdtemp(prefix="tidemark-e2e-")).resolve()
        server = self.serve_files(left)
        self.assertNotIn(left / "mount", dead_mounts())
        server.kill()
        self.lab.stop(server)
        self.assertIn(left / "mount", dead_mounts())
        clear_away(left / "mount")
        self.assertNotIn(left / "mount", dead_mounts())
        self.assertFalse(left.exists())

    def test_a_disk_that_loses_flushes_is_found_out(self):
        self.find_out("raw", (("disk.raw", "what was flushed is gone"), ("disk.raw.tidemark", "the bitmap"),
                              ("point0.qcow2", "is not its point")))

    def find_out(self, kind, liars):
        self.record(kind, SEED)
        for liar, what in liars:
            with self.subTest(liar):
                found = []
                for moment, files in self.states(random.Random(SEED), 150, lies={f"/{liar}"}):
                    try:
                        self.check(moment, files)
                    except Wrong as wrong:
                        found.append(str(wrong))
                        break
                self.assertTrue(found, "nobody noticed")
                self.assertIn(what, found[0])


if __name__ == "__main__":
    unittest.main()
