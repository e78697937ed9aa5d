"""`tidemark copy`: a file of a disk in use, which is what the disk held at one moment; guests go on, and nothing is left of the
overlay that they wrote to meanwhile, whatever happens."""
import os
import random
import signal
import struct
import subprocess
import threading
import time
import unittest

import nbd
from bed import DONE, FAILED, Bed, KiB, MiB
from lab import processes

BLOCK, BLOCKS = 4 * KiB, 512
DISK = BLOCK * BLOCKS


class Counter(threading.Thread):
    """Writes 1, 2, 3 ... each into a block of its own turn, one after the other, so that every moment of the disk can be told from
    its highest number."""

    def __init__(self, handle):
        super().__init__(daemon=True)
        self.handle, self.last, self.ending, self.error = handle, 0, threading.Event(), None

    def run(self):
        try:
            while not self.ending.is_set():
                number = self.last + 1
                self.handle.pwrite(struct.pack("<Q", number) * (BLOCK // 8), number % BLOCKS * BLOCK)
                self.last = number
        except nbd.Error as error:
            self.error = error

    def end(self):
        self.ending.set()
        self.join(30)
        assert self.error is None, self.error


def moment(last):
    """What a disk that Counter began with zeroes on holds after `last`."""
    data = bytearray(DISK)
    for number in range(max(1, last - BLOCKS + 1), last + 1):
        at = number % BLOCKS * BLOCK
        data[at:at + BLOCK] = struct.pack("<Q", number) * (BLOCK // 8)
    return bytes(data)


class Copies(Bed):
    def begin(self, image_format):
        self.name = f"disk.{image_format}"
        self.lab.run("qemu-img", "create", "-q", "-f", image_format, self.name, DISK)
        self.serve(f"{self.name}=disk")
        self.writer = Counter(self.disk())
        self.writer.start()
        self.addCleanup(self.writer.ending.set)
        while self.writer.last < 2 * BLOCKS:
            time.sleep(0.01)

    def overlays(self):
        return list(self.path.glob("disk.raw.tidemark-copy-*"))

    def exported(self):
        return self.qmp().execute("query-block-exports")[0]["node-name"]

    def flat(self, path):
        self.lab.run("qemu-img", "convert", "-U", "-O", "raw", path, "flat.raw")
        return (self.path / "flat.raw").read_bytes()

    def assert_a_moment(self, path, first, last):
        data = self.flat(path)
        highest = max(struct.unpack_from("<Q", data, at)[0] for at in range(0, DISK, BLOCK))
        self.assertEqual(data, moment(highest), f"{path} is of no moment")
        self.assertLessEqual(first, highest)
        self.assertLessEqual(highest, last + 1)

    def assert_nothing_is_left(self):
        self.assertFalse(list(self.path.glob("*.tidemark-*")))
        client = self.qmp()
        self.assertEqual(client.execute("query-jobs"), [])
        names = [node["node-name"] for node in client.execute("query-named-block-nodes")]
        self.assertFalse([name for name in names if name.startswith("tidemark-copy")], names)
        export, = client.execute("query-block-exports")
        self.assertEqual(export["node-name"], "disk")

    def assert_disk_is_whole(self):
        self.writer.end()
        self.assertEqual(self.content(), moment(self.writer.last))

    def copies_a_moment(self, image_format):
        self.begin(image_format)
        for name in ("one", "two"):
            first = self.writer.last
            self.run_tidemark("copy", "disk", name)
            self.assert_a_moment(name, first, self.writer.last)
            self.assert_nothing_is_left()
        self.assertTrue(self.json("copy", "--force", "disk", "two")["bytes"] >= DISK // 4)
        self.assert_disk_is_whole()

    def test_raw(self):
        self.copies_a_moment("raw")

    def test_qcow2(self):
        self.copies_a_moment("qcow2")
        self.lab.run("qemu-img", "check", "-q", "two")

    def start_slow_copy(self):
        self.begin("raw")
        process = self.lab.start(self.tidemark, "copy", "--speed", "256K", "disk", "slow", stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
        self.until(lambda: self.overlays() and self.exported() != "disk", "the overlay is there")
        time.sleep(random.random())
        return process

    def test_interrupted_it_leaves_nothing(self):
        process = self.start_slow_copy()
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.end_of(process)[0], 130)
        self.assert_nothing_is_left()
        self.assertFalse((self.path / "slow").exists())
        self.assert_disk_is_whole()

    def test_killed_it_is_cleaned_up_by_the_next(self):
        process = self.start_slow_copy()
        process.kill()
        self.end_of(process)
        first = self.writer.last
        self.assertTrue(self.json("copy", "disk", "next")["merged-before"])
        self.assert_a_moment("next", first, self.writer.last)
        self.assert_nothing_is_left_but("slow.tidemark-partial")
        self.assert_disk_is_whole()

    def assert_nothing_is_left_but(self, name):
        (self.path / name).unlink()
        self.assert_nothing_is_left()

    def test_an_overlay_of_a_daemon_that_ended_is_not_lost(self):
        process = self.start_slow_copy()
        self.writer.end()
        self.writer.handle.flush()
        self.daemon.kill()
        self.daemon.wait(30)
        status, _, said = self.end_of(process)
        self.assertEqual(status, FAILED)
        self.assertIn("if it has ended, merge it into", said)
        overlay, = self.overlays()
        self.assertEqual(self.flat(overlay), moment(self.writer.last))
        said = f"'{overlay}' is there: a daemon has ended during a copy"
        self.assertIn(said, self.fails("serve", "disk.raw=disk", "--nbd", "nbd.sock"))
        (self.path / "linked").mkdir()
        (self.path / "linked/name.raw").symlink_to("../disk.raw")
        self.assertIn(": a daemon has ended during a copy", self.fails("serve", "linked/name.raw=disk", "--nbd", "nbd.sock"))
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=q,path=qmp.sock,server=on,wait=off", "--monitor", "chardev=q",
                                     "--blockdev", f"driver=raw,node-name=disk,file.driver=file,file.filename={self.path}/disk.raw")
        processes.wait_for_socket(self.path / "qmp.sock", self.daemon)
        self.assertIn(said, self.fails("copy", "disk", "other"))
        self.assertFalse((self.path / "other").exists())
        self.daemon.kill()
        self.daemon.wait(30)
        self.run_tidemark("image", "commit", overlay)
        self.serve("disk.raw=disk")                          # it is empty by now
        self.assertEqual(self.content(), moment(self.writer.last))

    def test_two_at_once_do_not_meet(self):
        process = self.start_slow_copy()
        self.assertIn("another copy of disk 'disk' is under way", self.fails("copy", "disk", "other"))
        self.assertNotEqual(self.exported(), "disk")
        process.send_signal(signal.SIGINT)
        self.end_of(process)
        self.assert_nothing_is_left()
        self.assert_disk_is_whole()

    def test_of_several_at_once_one_does_and_the_others_say_why(self):
        self.begin("raw")
        for n in range(6):
            all = [self.lab.start(self.tidemark, "copy", "disk", f"{n}-{i}", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                   for i in range(3)]
            for status, _, err in [self.end_of(process) for process in all]:
                self.assertTrue(status == DONE or "another copy of disk 'disk' is under way" in err, err)
        self.assert_nothing_is_left()
        self.assert_disk_is_whole()

    def test_an_overlay_that_cannot_be_made_is_not_left(self):
        volume = self.path / "volume"
        volume.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", volume], capture_output=True, text=True)
        if done.returncode:
            self.skipTest("cannot mount: " + done.stderr.strip())
        self.addCleanup(subprocess.run, ["umount", "-l", volume], check=True)
        (volume / "disk.raw").touch()
        os.truncate(volume / "disk.raw", MiB)
        self.serve(f"{volume}/disk.raw=disk")
        (volume / "rest").write_bytes(bytes(2 * MiB - 64 * KiB))
        self.assertIn("No space left", self.fails("copy", "disk", "one"))
        self.assertEqual(sorted(path.name for path in volume.iterdir()), ["disk.raw", "rest"])

    def test_an_overlay_that_was_not_made_whole_is_no_danger(self):
        """The command was killed before the header was there."""
        left = self.path / "disk.raw.tidemark-copy-00000000.qcow2"
        for size in (0, 3, 300 * KiB):
            left.write_bytes(bytes(size))
            self.begin("raw")
            self.run_tidemark("copy", "--force", "disk", "one")
            self.assert_nothing_is_left()
            self.assert_disk_is_whole()
            self.lab.stop(self.daemon)

    def test_an_overlay_that_was_merged_is_no_danger(self):
        """Killed between the pivot and the removal."""
        process = self.start_slow_copy()
        process.kill()
        self.end_of(process)
        overlay, = self.overlays()
        name = overlay.name.removeprefix("disk.raw.").removesuffix(".qcow2")
        client = self.qmp()
        client.execute("block-commit", **{"job-id": name, "device": name, "base-node": "disk", "empty-active": True, "auto-dismiss": False})
        client.wait_event("BLOCK_JOB_READY", device=name)
        client.execute("job-complete", id=name)
        client.wait_event("JOB_STATUS_CHANGE", id=name, status="concluded")
        time.sleep(0.1)
        self.assertTrue(overlay.exists())
        first = self.writer.last
        self.run_tidemark("copy", "disk", "next")
        self.assert_a_moment("next", first, self.writer.last)
        self.assert_nothing_is_left_but("slow.tidemark-partial")
        self.assert_disk_is_whole()

    def test_a_backup_that_outlasts_it(self):
        process = self.start_slow_copy()
        backup = self.start_slow_backup()
        process.send_signal(signal.SIGINT)
        status, _, err = self.end_of(process)
        self.assertEqual((status, "run this again" in err), (FAILED, True), err)
        job, = self.qmp().execute("query-block-jobs")
        first = self.writer.last
        process = self.lab.start(self.tidemark, "copy", "disk", "next", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertIn("another job has disk 'disk'", process.stderr.readline())
        self.qmp().execute("block-job-set-speed", device=job["device"], speed=0)
        self.assertEqual(self.end_of(process)[0], DONE)
        self.assertEqual(self.end_of(backup)[0], DONE)
        self.assert_a_moment("next", first, self.writer.last)
        self.assertFalse(self.overlays())
        self.assertEqual(self.exported(), "disk")
        self.writer.end()
        self.assert_restores(self.backup(level="incremental")["point"], moment(self.writer.last))

    def test_incrementals_know_what_was_written_meanwhile(self):
        self.begin("raw")
        client = self.qmp()
        client.execute("block-dirty-bitmap-add", node="disk", name="since", persistent=True, granularity=4096)
        self.run_tidemark("copy", "disk", "base.raw")
        self.writer.end()
        client.execute("block-dirty-bitmap-disable", node="disk", name="since")
        client.execute("block-export-add", type="nbd", id="changes", node_name="disk", name="changes", bitmaps=["since"])
        reader = nbd.NBD()
        reader.add_meta_context("qemu:dirty-bitmap:since")
        reader.connect_uri(f"nbd+unix:///changes?socket={self.path / 'nbd.sock'}")
        extents = []
        reader.block_status(DISK, 0, lambda context, offset, entries, error: extents.extend(entries))
        data, now, at = bytearray((self.path / "base.raw").read_bytes()), self.content(), 0
        for length, dirty in zip(extents[::2], extents[1::2]):
            if dirty:
                data[at:at + length] = now[at:at + length]
            at += length
        self.assertEqual(bytes(data), now)
        reader.shutdown()

    def test_what_cannot_be_copied_is_told_before_anything_changes(self):
        self.begin("raw")
        self.assertIn("the daemon has no node 'none'", self.fails("copy", "none", "x"))
        self.assertIn("No such file or directory", self.fails("copy", "disk", "nowhere/x"))
        (self.path / "there").write_text("kept")
        self.assertIn("'there' exists; replace it with --force", self.fails("copy", "disk", "there"))
        self.assertEqual((self.path / "there").read_text(), "kept")
        client = self.qmp()
        client.execute("blockdev-add", driver="null-co", **{"node-name": "null"}, size=DISK)
        self.assertIn("is not a raw or qcow2 file on this machine", self.fails("copy", "null", "x"))
        self.raw("below.raw", DISK)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "below.raw", "top.qcow2")
        client.execute("blockdev-add", driver="qcow2", **{"node-name": "top"}, file={"driver": "file", "filename": str(self.path / "top.qcow2")})
        self.assertIn("a copy of its file alone would not be all of it", self.fails("copy", "top", "x"))
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=outside.raw", "apart.qcow2", DISK)
        client.execute("blockdev-add", driver="qcow2", **{"node-name": "apart"},
                       file={"driver": "file", "filename": str(self.path / "apart.qcow2")})
        self.assertIn("keeps its data in a file of its own", self.fails("copy", "apart", "x"))
        self.raw("near.raw", DISK)
        client.execute("blockdev-add", driver="raw", **{"node-name": "near"}, file={"driver": "file", "filename": "near.raw"})
        self.assertIn("serve it by its absolute name", self.fails("copy", "near", "x"))
        self.raw("other.raw", DISK)
        client.execute("blockdev-add", driver="raw", **{"node-name": "other"}, file={"driver": "file", "filename": str(self.path / "other.raw")})
        client.execute("blockdev-add", driver="null-co", **{"node-name": "target"}, size=DISK)
        client.execute("blockdev-backup", device="other", target="target", sync="full", speed=1, **{"job-id": "b", "filter-node-name": "point"})
        self.assertIn("has node 'point' on it", self.fails("copy", "other", "x"))
        client.execute("job-cancel", id="b")
        client.wait_event("BLOCK_JOB_CANCELLED", device="b")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "over.qcow2", DISK)
        client.execute("blockdev-add", driver="copy-on-read", **{"node-name": "filter"}, file="other")
        client.execute("blockdev-add", driver="qcow2", **{"node-name": "over"}, backing="filter",
                       file={"driver": "file", "filename": str(self.path / "over.qcow2")})
        for name in ("other", "filter"):
            self.assertIn("has node 'over' on it", self.fails("copy", name, "x"))
        self.assertFalse((self.path / "x").exists())
        self.assert_nothing_is_left()

    def test_the_guide(self):
        self.assertIn("Images are identical", self.run_guide("chains.md", begin="## A copy of the file itself", end="## From virsh"))


if __name__ == "__main__":
    unittest.main()
