"""Throttled disks: no more requests get through than their group lets, whatever thread they are served on; limits change while
requests wait, and nobody waits for limits when the disk is to come to rest."""
import time
import unittest

from bed import KiB, Bed
from lab import processes


class Throttle(Bed):
    def start(self, *exports):
        self.raw("disk.img")
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "c",
                                     "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--object", "iothread,id=io",
                                     "--object", "throttle-group,id=tg,limits.iops-total=50",
                                     "--blockdev", "file,node-name=file,filename=disk.img",
                                     "--blockdev", "throttle,node-name=disk,throttle-group=tg,file=file",
                                     "--blockdev", "memory,node-name=memory,size=1M",
                                     "--blockdev", "throttle,node-name=other,throttle-group=tg,file=memory",
                                     "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on",
                                     "--export", "nbd,id=other,node-name=other,name=other,writable=on,iothread=io")
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()

    def limit(self, iops):
        self.client.execute("qom-set", path="tg", property="limits", value={"iops-total": iops})

    def test_two_disks_on_two_threads_share_a_limit(self):
        self.start()
        disks = [self.disk("disk"), self.disk("other")]
        done = [0, 0]
        begun = time.monotonic()
        pending = 0
        for which, disk in enumerate(disks):
            for i in range(60):
                disk.aio_pwrite(b"x" * 4 * KiB, i * 4 * KiB, lambda _error, which=which: done.__setitem__(which, done[which] + 1) or 1)
                pending += 1
        while sum(done) < pending:
            for disk in disks:
                disk.poll(5)
        # A bucket holds a second's worth, the other 70 leak at 50 a second.
        self.assertGreater(time.monotonic() - begun, 1.2)

    def test_a_limit_that_is_lifted_lets_all_go(self):
        self.start()
        self.limit(1)
        disk, done = self.disk("disk"), []
        for i in range(40):
            disk.aio_pwrite(b"y" * 4 * KiB, i * 4 * KiB, lambda _error: done.append(1) or 1)
        self.limit(0)
        begun = time.monotonic()
        while len(done) < 40:
            disk.poll(50)
            self.assertLess(time.monotonic() - begun, 20)

    def test_nobody_waits_for_limits_when_the_disk_is_to_rest(self):
        self.start()
        self.limit(1)
        disk, done = self.disk("disk"), []
        for i in range(200):
            disk.aio_pwrite(b"z" * 4 * KiB, i * 4 * KiB, lambda _error: done.append(1) or 1)
        # 200 requests at one a second would take longer than a drain may.
        self.client.execute("transaction", actions=[{"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "b"}}])
        self.limit(0)
        begun = time.monotonic()
        while len(done) < 200:
            disk.poll(50)
            self.assertLess(time.monotonic() - begun, 20)


if __name__ == "__main__":
    unittest.main()
