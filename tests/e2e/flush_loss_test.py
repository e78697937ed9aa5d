"""A qcow2 image on storage that drops, when a flush fails, what was written since the last good one, and goes on."""
import os
import shutil
import unittest

import nbd
from bed import KiB, MiB, Bed
from lab import processes

DISK, FILE = 4 * MiB, 8 * MiB

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

    def start(self):
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                                     "--blockdev", "driver=nbd,node-name=stored,server.type=unix,server.path=target.sock",
                                     "--blockdev", "driver=file,node-name=file,filename=below.img,read-only=on",
                                     "--blockdev", "driver=raw,node-name=below,file=file,read-only=on",
                                     "--blockdev", "driver=qcow2,node-name=disk,file=stored,backing=below",
                                     "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on")
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.guest = self.disk("disk")

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
        (self.path / "broken").touch()
        self.assert_fails(self.guest.flush)
        self.assert_fails(self.guest.pwrite, b"1" * 4096, 0)
        self.assert_fails(self.guest.flush)
        self.assertEqual(self.guest.pread(64 * KiB, 0), self.below[:64 * KiB])
        self.daemon.kill()
        self.daemon.wait()
        self.assertEqual(self.stored(), self.below)
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink()
        self.start()                              # opened anew, it is written again
        self.guest.pwrite(b"2" * 4096, 0)
        self.guest.flush()
        self.daemon.kill()
        self.daemon.wait()
        self.assertEqual(self.stored(), b"2" * 4096 + self.below[4096:])


if __name__ == "__main__":
    unittest.main()
