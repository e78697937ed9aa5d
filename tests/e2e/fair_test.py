"""What one client asks for, or one disk's storage does not answer, holds up nobody else."""
import contextlib
import os
import socket
import struct
import subprocess
import threading
import unittest

import nbd
from bed import KiB, MiB, Bed
from lab import processes


GiB = 1024 * MiB


class Fairness(Bed):
    def start(self, *options):
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock", *options)
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)


class ManyAtOnce(Fairness):
    """Requests that the daemon can answer without waiting for anything, all sent at once."""
    CACHE, READ = 5, 0

    def greedy(self):
        """A connection with structured replies, on which requests can be sent by the thousand."""
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(20)
        client.connect(str(self.path / "nbd.sock"))
        client.recv(18, socket.MSG_WAITALL)
        option = lambda number, data: struct.pack(">8sII", b"IHAVEOPT", number, len(data)) + data
        client.sendall(struct.pack(">I", 3) + option(8, b"") + option(7, struct.pack(">I4sH", 4, b"disk", 0)))
        kind = size = 0
        answers = 0
        while answers < 2:
            _magic, _option, kind, size = struct.unpack(">QIII", client.recv(20, socket.MSG_WAITALL))
            client.recv(size, socket.MSG_WAITALL)
            answers += kind == 1
        return client

    def run_beside(self, command, length, count, few):
        """Another client's read is answered after a few of the one's requests."""
        self.start("--blockdev", f"null-co,node-name=n,size={8 * GiB},read-zeroes=on", "--export", "nbd,id=d,node-name=n,name=disk")
        greedy, other = self.greedy(), self.disk()
        greedy.sendall(b"".join(struct.pack(">IHHQQI", 0x25609513, 0, command, cookie, 0, length) for cookie in range(count)))
        other.pread(4096, 0)
        greedy.setblocking(False)
        received = bytearray()
        with contextlib.suppress(BlockingIOError):
            while part := greedy.recv(MiB):
                received += part
        self.assertNotIn(struct.pack(">Q", few), received)       # a cookie

    def test_caching(self):
        self.run_beside(self.CACHE, 3 * GiB, 20, 19)

    def test_reads(self):
        self.run_beside(self.READ, 32 * MiB, 1000, 150)


@unittest.skipUnless(os.geteuid() == 0, "freezing a file system needs root")
class FrozenFileSystem(Fairness):
    def setUp(self):
        super().setUp()
        self.lab.run("truncate", "-s", "64M", "fs.img")
        self.lab.run("mkfs.ext4", "-q", "fs.img")
        (self.path / "mnt").mkdir()
        if self.lab.run("mount", "-o", "loop", "fs.img", "mnt", ok=None).returncode:
            self.skipTest("no loop devices")
        self.addCleanup(self.unmount)
        for name in ("mnt/held.raw", "free.raw"):
            (self.path / name).write_bytes(bytes(4 * MiB))

    def unmount(self):
        self.daemon.kill()
        self.daemon.wait(20)
        self.lab.ended(self.daemon)
        subprocess.run(["umount", self.path / "mnt"], check=True)

    def thaw(self):
        subprocess.run(["fsfreeze", "-u", self.path / "mnt"], check=False, capture_output=True)

    def test_durable_writes_to_it_leave_workers_to_others(self):
        self.start("--blockdev", "file,node-name=held,filename=mnt/held.raw", "--blockdev", "file,node-name=free,filename=free.raw",
                   "--export", "nbd,id=h,node-name=held,name=held,writable=on", "--export", "nbd,id=f,node-name=free,name=free,writable=on")
        held, free = self.disk("held"), self.disk("free")
        os.sync()
        self.lab.run("fsfreeze", "-f", "mnt")
        self.addCleanup(self.thaw)
        threading.Timer(20, self.thaw).start()             # whatever happens
        data = b"x" * 4 * KiB
        for _ in range(100):
            held.aio_pwrite(data, 8 * KiB, flags=nbd.CMD_FLAG_FUA)
        while held.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
            held.poll(100)
        free.pwrite(data, 0, flags=nbd.CMD_FLAG_FUA)
        free.flush()
        held.poll(0)
        self.assertEqual(held.aio_in_flight(), 100)
        self.thaw()
        while held.aio_in_flight():
            held.poll(1000)


if __name__ == "__main__":
    unittest.main()
