"""A qcow2 image on storage that drops, when a flush fails, what was written since the last good one, and goes on."""
import json
import mmap
import os
import shutil
import subprocess
import unittest

import nbd
from bed import KiB, MiB, Bed
from lab import processes
from lab.qmp import QmpError

DISK, FILE = 4 * MiB, 8 * MiB
SIZE = 32 * MiB
MAP_LOCKED = 0x2000 | mmap.MAP_SHARED

# Its next flush fails when there is a file 'broken'; kept.img is what the last good one saw.
SERVER = ["nbdkit", "-f", "-U", "target.sock", "eval", f"get_size=echo {FILE}", "can_write=exit 0", "can_flush=exit 0",
          "pread=dd if=stored.img iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none",
          "pwrite=dd of=stored.img oflag=seek_bytes seek=$4 conv=notrunc status=none",
          "flush=if rm broken 2>/dev/null; then cp kept.img stored.img; echo 'EIO the cache is gone' >&2; exit 1; fi; "
          "cp stored.img kept.img"]


class FlushLoss(Bed):
    def setUp(self):
        super().setUp()
        self.below = self.raw("below.img", DISK).read_bytes()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.path / "below.img", "stored.img", str(DISK))
        os.truncate(self.path / "stored.img", FILE)
        shutil.copy(self.path / "stored.img", self.path / "kept.img")
        self.server = self.lab.start(*SERVER)
        self.addCleanup(self.server.kill)
        processes.wait_for_socket(self.path / "target.sock", self.server)
        self.start()

    def stop(self):
        self.daemon.kill()
        self.daemon.wait()
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink()

    def start(self, top=("--export", "nbd,id=disk,node-name=disk,name=disk,writable=on"), disk="read-only=off"):
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                                     "--blockdev", "driver=nbd,node-name=stored,server.type=unix,server.path=target.sock",
                                     "--blockdev", "driver=file,node-name=file,filename=below.img,read-only=on",
                                     "--blockdev", "driver=raw,node-name=below,file=file,read-only=on",
                                     "--blockdev", f"driver=qcow2,node-name=disk,file=stored,backing=below,{disk}", *top)
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.guest = self.disk("disk")
        self.client = self.qmp()

    def reopen(self, **more):
        self.client.execute("blockdev-reopen", options=[{"driver": "qcow2", "node-name": "disk", "file": "stored", "backing": "below", **more}])

    def break_next(self):
        (self.path / "broken").touch()

    def assert_fails(self, call, *arguments):
        with self.assertRaises(nbd.Error) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.errno, "EIO")

    def stored(self):
        self.lab.run("qemu-img", "check", "-q", "stored.img")
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "stored.img", "now.raw")
        return (self.path / "now.raw").read_bytes()

    def test_what_was_copied_on_write_stays(self):
        self.guest.pwrite(b"1" * 4096, 0)
        self.break_next()
        self.assert_fails(self.guest.flush)
        self.assert_fails(self.guest.pwrite, b"1" * 4096, 0)
        self.assert_fails(self.guest.flush)
        self.assertEqual(self.guest.pread(64 * KiB, 0), self.below[:64 * KiB])
        self.stop()
        self.assertEqual(self.stored(), self.below)
        self.start()                              # opened anew, it is written again
        self.guest.pwrite(b"2" * 4096, 0)
        self.guest.flush()
        self.daemon.kill()
        self.daemon.wait()
        self.assertEqual(self.stored(), b"2" * 4096 + self.below[4096:])

    def test_is_opened_anew_below_its_guest(self):
        self.guest.pwrite(b"1" * 4096, 0)
        self.guest.flush()
        self.guest.pwrite(b"2" * 4096, MiB)
        self.break_next()
        self.assert_fails(self.guest.flush)
        self.break_next()
        with self.assertRaises(QmpError) as caught:
            self.reopen()
        self.assertIn("flush: Input/output error", str(caught.exception))
        self.assert_fails(self.guest.pwrite, b"2" * 4096, MiB)
        self.assert_fails(self.guest.flush)
        self.reopen()
        self.assertEqual(self.guest.pread(2 * MiB, 0), b"1" * 4096 + self.below[4096:2 * MiB])
        self.guest.pwrite(b"3" * 4096, MiB)
        self.guest.flush()
        self.daemon.kill()
        self.daemon.wait()
        self.assertEqual(self.stored(), b"1" * 4096 + self.below[4096:MiB] + b"3" * 4096 + self.below[MiB + 4096:])

    def test_its_bitmaps_go_on(self):
        self.stop()
        self.start(disk="tracking.mode=off")
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        self.guest.pwrite(b"1" * 4096, 0)
        self.guest.flush()
        self.guest.pwrite(b"2" * 4096, MiB)
        self.break_next()
        self.assert_fails(self.guest.flush)
        self.reopen(tracking={"mode": "off"})
        self.guest.pwrite(b"3" * 4096, 2 * MiB)
        self.guest.flush()
        node = next(n for n in self.client.execute("query-named-block-nodes") if n["node-name"] == "disk")
        self.assertEqual(node["dirty-bitmaps"][0]["count"], 3 * 64 * KiB)
        self.client.execute("quit")
        self.assertEqual(self.daemon.wait(), 0)
        self.lab.run("qemu-img", "check", "-q", "stored.img")
        shown = json.loads(self.lab.run("qemu-img", "info", "--output=json", "stored.img").stdout)
        held, = shown["format-specific"]["data"]["bitmaps"]
        self.assertEqual((held["name"], held["flags"]), ("b", ["auto"]))

    def test_a_commit_is_begun_again(self):
        self.stop()
        for name in ("mid", "top"):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.img", str(DISK))
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 0x31 0 2M", "mid.img")
        self.start(("--blockdev", "driver=qcow2,node-name=mid,file.driver=file,file.filename=mid.img,backing=disk,read-only=on",
                    "--blockdev", "driver=qcow2,node-name=top,file.driver=file,file.filename=top.img,backing=mid",
                    "--export", "nbd,id=disk,node-name=top,name=disk,writable=on"), disk="read-only=on")
        commit = {"job_id": "j", "device": "top", "top_node": "mid", "base_node": "disk", "backing_file": "base", "auto_dismiss": False}
        self.client.execute("block-commit", speed=1, **commit)
        self.break_next()
        self.client.execute("block-job-set-speed", device="j", speed=0)
        self.assertIn("Input/output error", self.client.wait_job("j")["error"])
        node = next(n for n in self.client.execute("query-named-block-nodes") if n["node-name"] == "disk")
        self.assertTrue(node["ro"])
        self.assertEqual(self.guest.pread(DISK, 0), b"1" * 2 * MiB + self.below[2 * MiB:])
        self.client.execute("block-commit", **commit)
        self.assertNotIn("error", self.client.wait_job("j"))
        self.stop()
        self.assertEqual(self.stored(), b"1" * 2 * MiB + self.below[2 * MiB:])


class PageCacheLoss(Bed):
    """A volume that is full when the kernel writes back what it has taken; what could not be written stays in the page cache."""

    def setUp(self):
        super().setUp()
        volume = self.path / "volume"
        volume.mkdir()
        if os.geteuid() != 0:
            self.skipTest("mounting needs root")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", volume], capture_output=True, text=True)
        if done.returncode:
            self.skipTest("cannot mount: " + done.stderr.strip())
        self.addCleanup(subprocess.run, ["umount", "-l", volume], check=True)
        self.volume = volume
        with open(volume / "device.img", "wb") as file:
            file.truncate(64 * MiB)
        self.below = self.raw("below.img", SIZE).read_bytes()
        self.device = self.loop_device(volume / "device.img")
        held = open(self.device, "rb")            # its page cache goes with the last who has it open
        self.addCleanup(held.close)

    def start(self, *disk):
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock", *disk,
                                     "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on")
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.guest = self.disk("disk")
        self.client = self.qmp()

    def lose(self):
        """Strewn writes, more than the volume takes, and what the disk is by then on the device."""
        for at in range(0, SIZE, MiB):
            self.guest.pwrite(bytes([1 + at // MiB]) * (MiB // 2), at)
        for _ in range(2):
            with self.assertRaises(nbd.Error) as caught:
                self.guest.flush()
            self.assertEqual(caught.exception.errno, "EIO")
        subprocess.run(["mount", "-o", "remount,size=128m", self.volume], check=True)

    def drop_page_cache(self):
        subprocess.run(["blockdev", "--flushbufs", self.device], check=True)

    def test_an_image_is_opened_anew(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.path / "below.img", self.device, str(SIZE))
        qcow2 = {"driver": "qcow2", "node-name": "disk", "file": {"driver": "host_device", "filename": self.device}}
        self.start("--blockdev", json.dumps(qcow2))
        self.lose()
        self.client.execute("blockdev-reopen", options=[qcow2])
        now = bytearray(self.guest.pread(SIZE, 0))
        self.guest.pwrite(b"x" * 64 * KiB, 3 * MiB)
        now[3 * MiB:3 * MiB + 64 * KiB] = b"x" * 64 * KiB
        self.guest.flush()
        self.client.execute("quit")
        self.assertEqual(self.daemon.wait(), 0)
        self.drop_page_cache()
        self.lab.run("qemu-img", "check", "-q", self.device, ok=(0, 3))         # 3: leaks, of what was lost
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.device, "now.raw")
        self.assertTrue((self.path / "now.raw").read_bytes() == bytes(now))

    def test_what_is_closed_shows_what_is_on_the_device(self):
        self.start("--blockdev", f"driver=host_device,node-name=disk,filename={self.device}")
        self.lose()
        self.client.execute("quit")
        self.daemon.wait()
        shown = []
        for _ in range(2):
            with open(self.device, "rb") as device:
                shown.append(device.read(SIZE))
            self.drop_page_cache()
        self.assertTrue(shown[0] == shown[1])

    def test_a_raw_disk_is_opened_anew(self):
        raw = {"driver": "raw", "node-name": "disk", "file": {"driver": "host_device", "filename": self.device}}
        self.start("--blockdev", json.dumps(raw))
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b")
        self.lose()
        self.client.execute("block-dirty-bitmap-clear", node="disk", name="b")      # what could not be written is shown until then
        self.client.execute("blockdev-reopen", options=[raw])
        node = next(n for n in self.client.execute("query-named-block-nodes") if n["node-name"] == "disk")
        self.assertEqual(node["dirty-bitmaps"][0]["count"], 64 * MiB)
        now = self.guest.pread(SIZE, 0)
        self.guest.pwrite(b"x" * 4096, 0)
        self.guest.flush()
        self.client.execute("quit")
        self.assertEqual(self.daemon.wait(), 0)
        self.drop_page_cache()
        with open(self.device, "rb") as device:
            self.assertTrue(device.read(SIZE) == b"x" * 4096 + now[4096:])

    def mirror(self, *disk):
        """To a file of the device's size, up to where nothing is left to copy."""
        self.start(*disk)
        self.raw("target.img", 64 * MiB)
        self.client.execute("blockdev-add", driver="file", node_name="target", filename=str(self.path / "target.img"))
        self.client.execute("blockdev-mirror", job_id="j", device="disk", target="target", sync="full")
        self.client.wait_event("BLOCK_JOB_READY", device="j")

    def go_over(self):
        self.client.execute("job-complete", id="j")
        self.client.wait_event("BLOCK_JOB_COMPLETED", device="j")

    def mirrored(self):
        return (self.path / "target.img").read_bytes()[:SIZE]

    def test_a_mirror_copies_what_a_file_that_is_opened_anew_shows(self):
        low = {"driver": "host_device", "node-name": "low", "filename": self.device}
        self.mirror("--blockdev", json.dumps(low), "--blockdev", "driver=raw,node-name=disk,file=low")
        self.lose()
        with open(self.device, "rb") as device, mmap.mmap(device.fileno(), SIZE, flags=MAP_LOCKED, prot=mmap.PROT_READ):
            before = self.guest.pread(SIZE, 0)       # stays so: nothing takes these pages from the page cache
            self.guest.pwrite(before[:4096], 0)      # it looks what is lost when it has something to do
            self.until(lambda: self.mirrored() == before, "a mirror of what the page cache shows")
        self.client.execute("blockdev-reopen", options=[low])
        now = self.guest.pread(SIZE, 0)
        self.assertFalse(now == before)
        self.go_over()
        self.assertTrue(self.mirrored() == now)

    def test_a_mirror_takes_a_disk_off_storage_whose_flushes_fail(self):
        self.mirror("--blockdev", f"driver=host_device,node-name=disk,filename={self.device}")
        self.lose()
        self.guest.pwrite(b"x" * 4096, 0)
        now = self.guest.pread(SIZE, 0)
        self.go_over()
        self.assertTrue(self.mirrored() == now)
        self.assertTrue(self.guest.pread(SIZE, 0) == now)
        self.guest.flush()


if __name__ == "__main__":
    unittest.main()
