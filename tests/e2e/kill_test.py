"""The real daemon killed (kill -9) at random moments, round after round on the same disk: idle, under load from several
clients, in the middle of incremental backups and of transactions, and while it recovers from the kill before.  Each
time the bitmap is there, what it suspects is in proportion to what was written, and the incremental backup on top of
the last finished one is the disk.

TM_KILL_ROUNDS is the number of rounds for each format (a few by default), TM_KILL_SEED the first seed.  With
TM_KILL_REPORT=1 the distribution of suspected ÷ touched granules is printed.
"""
import collections
import os
import random
import statistics
import threading
import time
import unittest

import nbd
from bed import KiB, MiB, Bed, first_difference
from lab.qmp import wait_for_monitor

ROUNDS, SEED = int(os.environ.get("TM_KILL_ROUNDS", 6)), int(os.environ.get("TM_KILL_SEED", 1))
DISK, GRANULE = 64 * MiB, 16 * KiB
RATIO_MAX = 1.5
FEW = 64                                         # granules: of fewer a ratio says little


class Client(threading.Thread):
    """Random 4 KiB writes, some at a time, until the daemon is gone; they can be held back for a moment."""

    def __init__(self, uri, seed, touched):
        super().__init__(daemon=True)
        self.uri, self.rng, self.touched = uri, random.Random(seed), touched
        self.held, self.idle, self.free = False, threading.Event(), threading.Event()
        self.free.set()

    def hold(self):
        self.free.clear()
        self.idle.clear()
        self.held = True
        if not self.idle.wait(20):
            raise TimeoutError("a client does not come to rest")

    def go_on(self):
        self.held = False
        self.free.set()

    def run(self):
        try:
            disk = nbd.NBD()
            disk.connect_uri(self.uri)
            while True:
                while disk.aio_in_flight() >= (0 if self.held else 4) and disk.aio_in_flight():
                    disk.poll(-1)
                if self.held:
                    self.idle.set()
                    self.free.wait()
                at = self.rng.randrange(DISK // 4096) * 4096
                self.touched.add(at // GRANULE)
                disk.aio_pwrite(self.rng.randbytes(4096), at, lambda _error: 1)
                if self.rng.random() < 0.05:
                    disk.flush()
        except nbd.Error:                        # the daemon is gone
            self.idle.set()


class Kill(Bed):
    def rounds(self, kind):
        self.kind, self.image = kind, f"disk.{kind}"
        if kind == "raw":
            self.raw(self.image, DISK)
        else:
            self.qcow2(self.image, DISK)
        self.rng = random.Random(SEED)
        self.ratios = collections.defaultdict(list)
        self.number, self.clients, self.touched = 0, [], set()
        self.start()
        self.take_first()
        for turn in range(ROUNDS):
            name = ("idle", "load", "backup", "transaction")[turn % 4]
            with self.subTest(kind=kind, seed=SEED, round=turn, scenario=name):
                getattr(self, f"in_{name}")()
                self.crash()
                self.check(name)
        self.kill()
        self.report(kind)

    # The daemon

    def start(self):
        self.spawn()
        self.client = wait_for_monitor(self.path / "qmp.sock", self.daemon)
        self.until(lambda: self.client.execute("query-block-exports"), "the export")

    def spawn(self):
        node = f"driver={self.kind},node-name=disk,file.driver=file,file.filename={self.image}"
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                                     "--blockdev", node, "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on")

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()
        self.lab.ended(self.daemon)
        self.client.close()
        for client in self.clients:
            client.go_on()
            client.join(20)
            self.assertFalse(client.is_alive())
        self.clients = []

    def crash(self):
        """Killed, and now and then again while it comes up."""
        self.kill()
        while self.rng.random() < 0.25:
            self.spawn()
            time.sleep(self.rng.uniform(0, 0.06))
            self.daemon.kill()
            self.daemon.wait()
            self.lab.ended(self.daemon)
        if self.kind == "qcow2":
            self.lab.run("qemu-img", "check", self.image, ok=(0, 3))
        self.start()

    # What it is killed in

    def load(self, clients=3):
        uri = f"nbd+unix:///disk?socket={self.path / 'nbd.sock'}"
        self.clients = [Client(uri, self.rng.random(), self.touched) for _ in range(clients)]
        for client in self.clients:
            client.start()

    def hold(self):
        for client in self.clients:
            client.hold()

    def go_on(self):
        for client in self.clients:
            client.go_on()

    def wait_some(self, longest):
        time.sleep(self.rng.uniform(0, longest))

    def in_idle(self):
        self.load(1)
        self.wait_some(0.2)
        self.hold()
        self.wait_some(0.3)

    def in_load(self):
        self.load()
        self.wait_some(0.5)

    def in_backup(self):
        """Of which nobody may hear that it has ended."""
        self.load()
        self.wait_some(0.2)
        self.begin({"sync": "incremental", "bitmap": self.bitmap})
        self.wait_some(0.5)

    def in_transaction(self):
        """A point with a bitmap of its own: the old bitmap holds until the new one is known to be there."""
        self.load()
        self.wait_some(0.2)
        self.begin({"sync": "bitmap", "bitmap": self.bitmap, "bitmap-mode": "never"}, self.next_bitmap())
        self.wait_some(0.05)

    def next_bitmap(self):
        self.number += 1
        return f"b{self.number}"

    def begin(self, options, new_bitmap=None):
        """Starts a backup of a moment that is known, at a pace that leaves time to be killed in."""
        self.create("begun.qcow2")
        self.hold()
        self.begun, self.begun_bitmap = self.content(), new_bitmap
        data = {"job-id": "j", "device": "disk", "target": "target", "auto-dismiss": False, "speed": 16 * MiB, **options}
        actions = [{"type": "blockdev-backup", "data": data}]
        if new_bitmap:
            actions.append(self.addition(new_bitmap))
        self.client.execute("transaction", actions=actions)
        self.go_on()

    @staticmethod
    def addition(name):
        return {"type": "block-dirty-bitmap-add",
                "data": {"node": "disk", "name": name, "persistent": True, "granularity": GRANULE}}

    # What has to hold

    def create(self, name):
        """An image on top of the last finished point, as the node `target`."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "point.raw", "-F", "raw", name)
        self.client.execute("blockdev-add", driver="qcow2", node_name="target", backing=None,
                            file={"driver": "file", "filename": name})

    def converted(self, name):
        self.lab.run("qemu-img", "convert", "-O", "raw", name, "converted.raw")
        return (self.path / "converted.raw").read_bytes()

    def finish(self, **options):
        self.client.execute("blockdev-backup", job_id="j", device="disk", target="target", auto_dismiss=False, **options)
        self.assertNotIn("error", self.client.wait_job("j"))
        self.client.execute("blockdev-del", node_name="target")

    def take_first(self):
        self.bitmap, self.begun = self.next_bitmap(), None
        (self.path / "point.raw").write_bytes(bytes(DISK))
        self.create("next.qcow2")
        self.client.execute("transaction", actions=[self.addition(self.bitmap)])
        self.finish(sync="full")
        self.last = self.converted("next.qcow2")
        self.assertEqual(first_difference(self.last, self.content()), None)
        (self.path / "point.raw").write_bytes(self.last)

    def bitmaps(self):
        nodes = self.client.execute("query-named-block-nodes")
        return {bitmap["name"]: bitmap for node in nodes if node["node-name"] == "disk"
                for bitmap in node.get("dirty-bitmaps", ())}

    def check(self, scenario):
        found = self.bitmaps()
        for name in {self.bitmap, self.begun_bitmap if self.begun else None} - {None}:
            self.assertIn(name, found)
            self.assertTrue(found[name]["recording"] and found[name]["persistent"], found[name])
            self.assertNotIn("inconsistent", found[name])
        touched = len(self.touched)
        for what, size in (("suspected", found[self.bitmap].get("suspected", 0)), ("dirty", found[self.bitmap]["count"])):
            if touched >= FEW:
                self.ratios[scenario, what].append(size / GRANULE / touched)
            self.assertLessEqual(size / GRANULE, RATIO_MAX * touched + (0 if touched >= FEW else 8), what)
        now = self.content()
        ended = False
        if self.begun and self.begun_bitmap is None:
            ended = first_difference(self.converted("begun.qcow2"), self.begun) is None
        self.create("next.qcow2")
        self.finish(sync="incremental", bitmap=self.bitmap)
        wrong = first_difference(self.converted("next.qcow2"), now)
        if wrong is not None and ended:          # it had dropped its bits, and was complete
            (self.path / "point.raw").write_bytes(self.begun)
            wrong = first_difference(self.converted("next.qcow2"), now)
        self.assertEqual(wrong, None)
        if self.begun and self.begun_bitmap:
            self.check_new_bitmap(now)
        (self.path / "point.raw").write_bytes(now)
        self.begun, self.begun_bitmap, self.touched = None, None, set()
        self.assertEqual(first_difference(now, self.content()), None)

    def check_new_bitmap(self, now):
        """It is of the point that was begun; from here on it takes the place of the old one."""
        (self.path / "point.raw").write_bytes(self.begun)
        self.create("next.qcow2")
        self.finish(sync="incremental", bitmap=self.begun_bitmap)
        self.assertEqual(first_difference(self.converted("next.qcow2"), now), None)
        self.client.execute("block-dirty-bitmap-remove", node="disk", name=self.bitmap)
        self.bitmap = self.begun_bitmap

    def report(self, kind):
        if not os.environ.get("TM_KILL_REPORT"):
            return
        for (scenario, what), ratios in self.ratios.items():
            ratios.sort()
            print(f"{kind} {scenario}: {len(ratios)} rounds with {FEW} granules or more; {what} ÷ touched "
                  f"median {statistics.median(ratios):.3f}, 90 % {ratios[int(0.9 * (len(ratios) - 1))]:.3f}, most {ratios[-1]:.3f}",
                  flush=True)

    def test_raw(self):
        self.rounds("raw")

    def test_qcow2(self):
        self.rounds("qcow2")


if __name__ == "__main__":
    unittest.main()
