"""A flush is lost anywhere: of what begins and ends writing to an image with bitmaps, below others who use the same image, and
between what bitmaps begin with and what is durable."""
import json
import os
import shutil
import threading
import time
import unittest

import nbd
from bed import KiB, MiB, Bed, first_difference
from lab import processes
from lab.qmp import QmpError
from losing_server import LosingServer

SIZE, FILE = 4 * MiB, 24 * MiB
GRANULE = 64 * KiB
EXPORT = {"type": "nbd", "id": "disk", "node-name": "disk", "name": "disk", "writable": True}


class LossAnywhere(Bed):
    def setUp(self):
        super().setUp()
        self.server = None
        self.told = open(self.path / "told", "w", encoding="utf-8")       # each loss is
        self.addCleanup(self.told.close)

    def start(self, *options):
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor",
                                     "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock", *options,
                                     stderr=self.told)
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()

    def stop(self, orderly):
        if orderly:
            self.client.execute("quit")
        else:
            self.daemon.kill()
        self.daemon.wait()
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)

    def serve_losing(self, image, size=FILE):
        """What follows is stored in a copy of the image, at nbd node 'stored'."""
        if self.server:
            self.server.close()
        (self.path / "s.sock").unlink(missing_ok=True)
        self.server = LosingServer(self.path / "s.sock", (self.path / image).read_bytes() if image else b"", size)
        self.addCleanup(self.server.close)
        return "--blockdev", "driver=nbd,node-name=stored,server.type=unix,server.path=s.sock"

    def node(self, name="disk"):
        return next(n for n in self.client.execute("query-named-block-nodes") if n["node-name"] == name)

    def bitmap(self, name="b", node="disk"):
        return next(b for b in self.node(node)["dirty-bitmaps"] if b["name"] == name)

    def fails(self, call, *arguments):
        with self.assertRaises(nbd.Error) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.errno, "EIO")

    def covered(self, image, *wanted):
        """Whether the bitmap of an image that was closed or left so has these granules, or says that it cannot be believed."""
        self.start("--blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={image}")
        found = self.node().get("dirty-bitmaps", [])
        self.stop(True)
        if not found or found[0].get("inconsistent"):
            return True
        return found[0]["count"] >= len(wanted) * GRANULE

    # Bitmaps of an image that is opened anew

    def lose_while_writing_ends(self, number, command, orderly):
        """False: there were not so many flushes."""
        disk = {"driver": "qcow2", "node-name": "disk", "file": "stored", "tracking": {"mode": "off"}}
        self.start(*self.serve_losing("empty.img"), "--blockdev", json.dumps(disk), "--export", json.dumps(EXPORT))
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        guest = self.disk()
        guest.pwrite(b"1" * 4096, 0)
        guest.flush()
        guest.shutdown()
        self.client.execute("block-export-del", id="disk")
        self.client.wait_event("BLOCK_EXPORT_DELETED", id="disk")
        self.server.fail_at = self.server.flushes + number
        try:
            command()
        except QmpError:
            pass
        self.server.fail_at = None
        if self.server.failed:
            self.client.execute("blockdev-reopen", options=[disk])
            self.client.execute("block-export-add", **{key.replace("-", "_"): value for key, value in EXPORT.items()})
            guest = self.disk()
            guest.pwrite(b"2" * 4096, 2 * MiB)
            guest.flush()
            guest.shutdown()
        self.stop(orderly)
        self.server.save(self.path / "left.img")
        if self.server.failed:
            self.assertTrue(self.covered("left.img", 0, 2 * MiB), f"flush {number}")
        return self.server.failed != 0

    def test_an_end_of_writing(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "empty.img", str(SIZE))
        closing = {"driver": "qcow2", "node-name": "disk", "file": "stored", "tracking": {"mode": "off"}, "read-only": True}
        commands = (lambda: self.client.execute("blockdev-reopen", options=[closing]),
                    lambda: self.client.execute("blockdev-set-active", node_name="disk", active=False))
        for command in commands:
            for orderly in (False, True):
                number = 0
                while self.lose_while_writing_ends(number, command, orderly):
                    number += 1
                self.assertGreater(number, 5)

    def test_an_activation(self):
        """Of an image that others have had meanwhile; where it does not go back it is opened anew."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "one.img", str(SIZE))
        self.lab.run("qemu-img", "bitmap", "--add", "one.img", "b")
        disk = {"driver": "qcow2", "node-name": "disk", "file": "stored", "tracking": {"mode": "off"}}
        for orderly in (False, True):
            for number in range(20):
                self.start(*self.serve_losing("one.img"), "--blockdev", json.dumps(disk))
                self.client.execute("blockdev-set-active", node_name="disk", active=False)
                self.server.fail_at = self.server.flushes + number
                try:
                    self.client.execute("blockdev-set-active", node_name="disk", active=True)
                except QmpError:
                    pass
                self.server.fail_at = None
                if not self.server.failed:
                    self.stop(False)
                    break
                if not self.node()["active"]:
                    self.client.execute("blockdev-set-active", node_name="disk", active=True)
                self.client.execute("blockdev-reopen", options=[disk])
                self.client.execute("block-export-add", **{key.replace("-", "_"): value for key, value in EXPORT.items()})
                guest = self.disk()
                guest.pwrite(b"2" * 4096, 2 * MiB)
                guest.flush()
                guest.shutdown()
                self.stop(orderly)
                self.server.save(self.path / "left.img")
                self.assertTrue(self.covered("left.img", 2 * MiB), f"flush {number}")
            self.assertGreater(number, 0)

    def test_a_beginning_of_writing(self):
        """A commit that cannot begin leaves its base as it was, and another one can."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "base.img", str(SIZE))
        self.lab.run("qemu-img", "bitmap", "--add", "base.img", "b")
        for name in ("mid", "top"):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.fresh", str(SIZE))
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 0x31 512k 2M", "mid.fresh")
        commit = {"job_id": "j", "device": "top", "top_node": "mid", "base_node": "disk", "backing_file": "base", "auto_dismiss": False}
        began = 0
        for number in range(20):
            for name in ("mid", "top"):
                shutil.copy(self.path / f"{name}.fresh", self.path / f"{name}.img")
            self.start(*self.serve_losing("base.img"),
                       "--blockdev", "driver=qcow2,node-name=disk,file=stored,read-only=on,tracking.mode=off",
                       "--blockdev", "driver=qcow2,node-name=mid,file.driver=file,file.filename=mid.img,backing=disk,read-only=on",
                       "--blockdev", "driver=qcow2,node-name=top,file.driver=file,file.filename=top.img,backing=mid")
            self.server.fail_at = self.server.flushes + number
            try:
                self.client.execute("block-commit", **commit)
            except QmpError:
                self.assertTrue(self.node()["ro"])
                self.server.fail_at = None
                self.client.execute("block-commit", **commit)
                self.assertNotIn("error", self.client.wait_job("j"))
                self.stop(True)
                self.server.save(self.path / "left.img")
                self.assertTrue(self.covered("left.img", *range(32)), f"flush {number}")
                continue
            self.client.wait_job("j")
            began = number
            self.stop(False)
            break
        self.assertGreater(began, 0)

    # Others who use what a reopened node stands on

    def start_inline(self):
        with open(self.path / "r.raw", "wb") as file:
            for _ in range(SIZE // GRANULE):
                file.write(os.urandom(50000) + bytes(GRANULE - 50000))
        self.lab.run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "r.raw", "i.img")
        self.serve_losing("i.img")
        stored = {"driver": "nbd", "server": {"type": "unix", "path": "s.sock"}}
        self.filter = {"driver": "throttle", "node-name": "thr", "throttle-group": "g",
                       "file": {"driver": "qcow2", "node-name": "disk", "file": stored}}
        self.start("--object", "throttle-group,id=g", "--blockdev", json.dumps(self.filter), "--export", json.dumps(EXPORT),
                   "--export", json.dumps({**EXPORT, "id": "thr", "node-name": "thr", "name": "thr"}))

    def test_writes_past_a_filter_end_first(self):
        self.start_inline()
        above, inner = self.disk("thr"), self.disk()
        above.pwrite(b"0" * GRANULE, 0)
        above.flush()
        self.server.hold = lambda data: b"WWWW" in data
        writes = [inner.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"W" * GRANULE)), MiB + i * GRANULE) for i in range(4)]
        while self.server.held < 4:
            inner.poll(10)
        self.server.fail_next()
        self.fails(above.flush)
        done = []
        thread = threading.Thread(target=lambda: done.append(self.client.execute("blockdev-reopen", options=[self.filter])))
        thread.start()
        time.sleep(0.5)
        self.assertEqual(done, [])
        self.server.release()
        for write in writes:
            with self.assertRaises(nbd.Error):           # the loss came in between
                while not inner.aio_command_completed(write):
                    inner.poll(100)
        thread.join(20)
        self.assertEqual(done, [{}])
        for guest in (inner, above):
            for i in range(12):
                guest.pwrite(bytes([97 + i]) * GRANULE, 2 * MiB + i * GRANULE)
        try:
            inner.flush()
        except nbd.Error:                                # it may not have heard yet
            inner.flush()
        self.stop(True)
        self.server.save(self.path / "left.img")
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "left.img", "o.raw")
        expected = bytearray((self.path / "r.raw").read_bytes())
        expected[:GRANULE] = b"0" * GRANULE
        expected[2 * MiB:2 * MiB + 12 * GRANULE] = b"".join(bytes([97 + i]) * GRANULE for i in range(12))
        self.assertIsNone(first_difference((self.path / "o.raw").read_bytes(), bytes(expected)))
        checked = self.lab.run("qemu-img", "check", "left.img", ok=None)
        self.assertIn(checked.returncode, (0, 3), checked.stdout)        # leaks at most

    def test_jobs_on_what_is_described_inline(self):
        self.start_inline()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "t.img", str(SIZE))
        self.client.execute("blockdev-add", driver="qcow2", node_name="t", file={"driver": "file", "filename": "t.img"})
        self.client.execute("blockdev-backup", job_id="j", device="disk", target="t", sync="full", speed=1)
        with self.assertRaises(QmpError) as caught:
            self.client.execute("blockdev-reopen", options=[self.filter])
        self.assertIn("is busy", str(caught.exception))
        self.client.execute("block-job-cancel", device="j", force=True)
        self.client.wait_event("BLOCK_JOB_CANCELLED")
        self.client.execute("blockdev-reopen", options=[self.filter])

    # Bitmaps that have begun with what is lost

    def test_bitmaps_that_are_not_stored(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "empty.img", str(SIZE))
        for driver, image in (("qcow2", "empty.img"), ("raw", None)):
            disk = {"driver": driver, "node-name": "disk", "file": "stored"}
            self.start(*self.serve_losing(image, FILE if image else SIZE), "--blockdev", json.dumps(disk), "--export", json.dumps(EXPORT))
            guest = self.disk()
            self.client.execute("block-dirty-bitmap-add", node="disk", name="cleared")
            guest.pwrite(b"1" * 4096, 0)
            guest.flush()
            guest.pwrite(b"2" * 4096, MiB)
            self.client.execute("block-dirty-bitmap-clear", node="disk", name="cleared")
            self.client.execute("block-dirty-bitmap-add", node="disk", name="added")
            self.assertEqual(guest.pread(4096, MiB), b"2" * 4096)
            self.server.fail_next()
            self.fails(guest.flush)
            self.assertEqual(guest.pread(4096, MiB), bytes(4096))
            for name in ("cleared", "added"):
                self.assertEqual(self.bitmap(name)["count"], SIZE)
            self.stop(False)

    # A write that is answered after the loss was told

    def test_a_write_under_way(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "empty.img", str(SIZE))
        for driver, image in (("qcow2", "empty.img"), ("raw", None)):
            disk = {"driver": driver, "node-name": "disk", "file": "stored"}
            self.start(*self.serve_losing(image, FILE if image else SIZE), "--blockdev", json.dumps(disk), "--export", json.dumps(EXPORT))
            guest = self.disk()
            self.server.hold = lambda data: b"WWWW" in data
            write = guest.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"W" * GRANULE)), MiB)
            while not self.server.held:
                guest.poll(10)
            self.server.fail_next()
            self.fails(guest.flush)
            self.server.release()
            told = False
            try:
                while not guest.aio_command_completed(write):
                    guest.poll(100)
            except nbd.Error:
                told = True
            self.client.execute("blockdev-reopen", options=[disk])
            try:
                guest.flush()
            except nbd.Error:
                told = True
            self.assertTrue(told)
            guest.flush()
            self.stop(False)


class StoresThatAreGone(Bed):
    """The store is taken away while the disk is only read: who writes again is not told that bitmaps are kept."""

    def start(self, driver):
        self.driver = driver
        self.told = open(self.path / "told", "w", encoding="utf-8")
        self.addCleanup(self.told.close)
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor",
                                     "chardev=c", "--blockdev", "driver=file,node-name=file,filename=d.img",
                                     "--blockdev", f"driver={driver},node-name=disk,file=file", stderr=self.told)
        processes.wait_for_socket(self.path / "qmp.sock", self.daemon)
        self.client = self.qmp()

    def reopen(self, read_only):
        self.client.execute("blockdev-reopen", options=[{"driver": self.driver, "node-name": "disk", "file": "file", "read-only": read_only}])

    def bitmap(self):
        return next(n for n in self.client.execute("query-named-block-nodes") if n["node-name"] == "disk")["dirty-bitmaps"][0]

    def take_away(self):
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        self.reopen(True)
        os.rename(self.path / "d.img.tidemark", self.path / "elsewhere")
        self.reopen(False)

    def test_a_file(self):
        self.raw("d.img")
        self.start("raw")
        self.take_away()
        self.client.wait_event("TRACKING_STORE_STATUS", node="disk", status="inconsistent")
        bitmap = self.bitmap()
        self.assertTrue(bitmap["inconsistent"])
        self.assertFalse(bitmap["recording"])
        self.assertIn("its tracking store was not there", bitmap["inconsistent-reason"])
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
        self.assertTrue((self.path / "d.img.tidemark").exists())
        self.reopen(True)
        self.reopen(False)
        self.assertNotIn("inconsistent", self.bitmap())

    def test_an_image_that_has_its_bitmaps(self):
        self.qcow2("d.img")
        self.start("qcow2")
        self.take_away()
        self.assertNotIn("inconsistent", self.bitmap())
        self.assertTrue((self.path / "d.img.tidemark").exists())

    def test_bitmaps_that_are_not_stored_need_none(self):
        self.qcow2("d.img")
        self.start("qcow2")
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b")
        self.reopen(True)
        self.reopen(False)
        self.assertFalse((self.path / "d.img.tidemark").exists())


if __name__ == "__main__":
    unittest.main()
