"""Mirrors as users run them: a guest writes over NBD, goes over to the new disk without noticing, and waits for nobody;
targets hang; the daemon is killed, and the mirror goes on from its bitmap."""
import json
import signal
import subprocess
import time
import unittest

from bed import MiB, first_difference
from lab import processes
from lab.qmp import QmpError
from lab.writer import BLOCK
from mirror_bed import DISK, MirrorBed


class Mirror(MirrorBed):
    def pivot_beside_a_writer(self, copy_mode, **export):
        self.raw("disk.img", DISK)
        before = (self.path / "disk.img").read_bytes()
        with open(self.path / "target.img", "wb") as file:
            file.truncate(DISK)
        threads = ("--object", "iothread,id=t0") if export else ()
        self.start(*threads)
        self.export(**export)
        self.add_file("target", "target.img")
        writer = self.writer()
        self.mirror(copy_mode=copy_mode)
        self.pivot(writer)
        self.client.execute("blockdev-del", node_name="disk")
        self.assertIsNone(first_difference(self.content("disk"), self.expected(writer, before)))
        self.client.execute("quit")
        self.daemon.wait(20)
        self.lab.ended(self.daemon)
        self.assertIsNone(first_difference((self.path / "target.img").read_bytes(), self.expected(writer, before)))

    def test_a_guest_goes_over_to_the_new_disk(self):
        self.pivot_beside_a_writer("background")

    def test_a_guest_goes_over_to_the_new_disk_write_blocking(self):
        self.pivot_beside_a_writer("write-blocking")

    def test_a_guest_on_a_thread_of_its_own_goes_over(self):
        self.pivot_beside_a_writer("background", iothread="t0", fixed_iothread=True)

    def pivot(self, writer):
        """The writer goes on for a while, before and after."""
        self.until_ready()
        time.sleep(0.2)
        self.client.execute("job-complete", id="j")
        self.client.wait_event("BLOCK_JOB_COMPLETED", device="j")
        count = len(writer.log)
        self.until(lambda: len(writer.log) > count + 100, "writes after the pivot")
        writer.finish()

    def test_a_drive_mirror_that_cannot_begin_leaves_no_file(self):
        self.raw("disk.img", DISK)
        self.start()
        (self.path / "there.img").touch()
        self.client.execute("blockdev-set-active", node_name="disk", active=False)
        for target in ("new.img", "there.img"):
            with self.assertRaisesRegex(QmpError, "inactive"):
                self.client.execute("drive-mirror", job_id="j", device="disk", target=target, sync="full", format="raw")
        self.assertFalse((self.path / "new.img").exists())
        self.assertEqual((self.path / "there.img").stat().st_size, 0)

    def overlay_beside_a_writer(self, sync, copy_mode):
        """drive-mirror of a part of a chain makes an overlay of the rest."""
        self.raw("base.img", DISK)
        self.lab.run("qemu-img", "create", "-f", "qcow2", "-b", "base.img", "-F", "raw", "disk.img")
        self.lab.run("qemu-io", "-c", "write -P 5 1M 3M", "disk.img")
        self.lab.run("qemu-img", "convert", "-O", "raw", "disk.img", "before.img")
        before = (self.path / "before.img").read_bytes()
        self.start(disk=("driver=qcow2,node-name=disk,file.driver=file,file.filename=disk.img",))
        self.export()
        writer = self.writer()
        self.client.execute("drive-mirror", job_id="j", device="disk", target="target.img", sync=sync, copy_mode=copy_mode,
                            node_name="target", granularity=4096)
        self.pivot(writer)
        expected = self.expected(writer, before)
        self.assertIsNone(first_difference(self.content("disk"), expected))
        self.client.execute("quit")
        self.daemon.wait(20)
        self.lab.ended(self.daemon)
        info = json.loads(self.lab.run("qemu-img", "info", "--output=json", "target.img").stdout)
        self.assertEqual(info["backing-filename"], {"top": "base.img", "none": "disk.img"}[sync])
        self.lab.run("qemu-img", "check", "-q", "target.img")
        self.lab.run("qemu-img", "convert", "-O", "raw", "target.img", "after.img")
        self.assertIsNone(first_difference((self.path / "after.img").read_bytes(), expected))

    def test_the_top_layer_alone_goes_to_an_overlay_of_the_rest(self):
        self.overlay_beside_a_writer("top", "background")

    def test_the_top_layer_alone_goes_to_an_overlay_of_the_rest_write_blocking(self):
        self.overlay_beside_a_writer("top", "write-blocking")

    def test_what_is_new_goes_to_an_overlay_of_the_disk(self):
        self.overlay_beside_a_writer("none", "background")

    def test_what_is_new_goes_to_an_overlay_of_the_disk_write_blocking(self):
        self.overlay_beside_a_writer("none", "write-blocking")

    def hang(self):
        """A mirror that is ready, and a target that answers no more."""
        self.raw("disk.img", DISK)
        with open(self.path / "copy.img", "wb") as file:
            file.truncate(DISK)
        self.start()
        self.export()
        self.server = self.lab.start("nbdkit", "-f", "-U", "target.sock", "file", "file=copy.img", stderr=subprocess.DEVNULL)
        self.addCleanup(self.server.kill)
        processes.wait_for_socket(self.path / "target.sock", self.server)
        self.client.execute("blockdev-add", driver="nbd", node_name="target",
                            server={"type": "unix", "path": str(self.path / "target.sock")})
        self.mirror()
        self.until_ready()
        processes.halt(self.server)

    def guest_writes(self):
        disk = self.disk()
        slowest = 0
        for block in range(200):
            begun = time.monotonic()
            disk.pwrite(bytes([block % 250]) * BLOCK, block * 3 * BLOCK)
            slowest = max(slowest, time.monotonic() - begun)
        disk.flush()
        disk.shutdown()
        return slowest

    def test_a_flush_after_the_pivot_is_about_what_was_written_before(self):
        """The disk stands on what it was, and flushes do not go there any more."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", str(DISK))
        self.start(disk=("driver=qcow2,node-name=disk,file.driver=file,file.filename=disk.qcow2",))
        self.export()
        guest = self.disk()
        guest.pwrite(b"A" * 65536, 0)
        self.client.execute("drive-mirror", job_id="j", device="disk", target="new.qcow2", sync="none", format="qcow2", node_name="new")
        self.until_ready()
        self.client.execute("job-complete", id="j")
        self.until_gone()
        guest.pwrite(b"B" * 512, 1 * MiB)
        guest.flush()
        self.daemon.kill()
        self.daemon.wait()
        for pattern, at, length in (("0x41", 0, 65536), ("0x42", 1 * MiB, 512)):
            read = self.lab.run("qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {pattern} {at} {length}", "new.qcow2")
            self.assertNotIn("verification failed", read.stdout)

    def test_a_target_that_hangs_holds_up_nobody(self):
        self.hang()
        self.assertLess(self.guest_writes(), 5)
        self.client.execute("job-complete", id="j")
        self.assertLess(self.guest_writes(), 5)
        self.client.execute("job-cancel", id="j")
        self.until_gone(patience=15)
        self.guest_writes()
        self.server.send_signal(signal.SIGCONT)

    def test_the_daemon_ends_with_a_target_that_hangs(self):
        self.hang()
        self.guest_writes()
        self.client.execute("block-job-change", id="j", type="mirror", copy_mode="write-blocking")
        writer = self.lab.start("qemu-io", "-f", "raw", "-c", "write -P 9 1M 64k", f"nbd+unix:///disk?socket={self.path / 'nbd.sock'}",
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        self.daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(25), 0)
        self.lab.ended(self.daemon)
        writer.wait(20)
        self.lab.ended(writer)

    def test_killed_it_goes_on_by_its_persistent_bitmap(self):
        self.qcow2("disk.qcow2", DISK)
        node = ("driver=qcow2,node-name=disk,file.driver=file,file.filename=disk.qcow2",)
        with open(self.path / "target.img", "wb") as file:
            file.truncate(DISK)
        self.start(disk=node)
        self.export()
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        self.add_file("target", "target.img")
        self.mirror(bitmap="b", bitmap_mode="always")
        self.until_ready()
        self.client.execute("block-job-cancel", device="j")          # the target is equal, and the bitmap clean
        self.until_gone()
        self.guest_writes()
        self.mirror(sync="bitmap", bitmap="b", bitmap_mode="always", job="k", speed=256 << 10)
        time.sleep(0.3)
        self.guest_writes()
        self.daemon.kill()
        self.daemon.wait()
        self.lab.ended(self.daemon)
        self.start(disk=node)
        self.export()
        self.add_file("target", "target.img")
        self.mirror(sync="bitmap", bitmap="b", bitmap_mode="always", job="l")
        self.until_ready("l")
        copied, = [job["current-progress"] for job in self.client.execute("query-jobs")]
        self.assertLess(copied, DISK // 2)
        self.client.execute("job-complete", id="l")
        self.until_gone("l")
        content = self.content("disk")
        self.client.execute("quit")
        self.daemon.wait(20)
        self.lab.ended(self.daemon)
        self.lab.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "disk.qcow2", "target.img", cwd=self.path)
        self.assertIsNone(first_difference((self.path / "target.img").read_bytes(), content))

    def test_the_guide_as_it_is_written(self):
        printed = self.run_guide("chains.md", begin="## Mirror:", end="## A copy of the file itself")
        self.assertIn("job 'copy0' is ready", printed)
        self.assertIn("job 'copy3' is done", printed)


if __name__ == "__main__":
    unittest.main()
