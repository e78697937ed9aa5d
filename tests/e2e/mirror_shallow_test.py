"""A mirror of a disk's top layer alone, to an image that is put on its backing file when the copy is ready: libvirt's shallow copy with
--reuse-external, where the rest of the chain is copied by other means meanwhile."""
import itertools
import threading
import time
import unittest

from bed import KiB, MiB, first_difference
from lab import processes
from lab.qmp import Qmp, QmpError
from mirror_bed import DISK, MirrorBed


class Shallow(MirrorBed):
    def begin(self, *create, **target):
        """base <- disk, and copy, which is on nothing yet."""
        self.raw("base.img", DISK)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", "disk.qcow2")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 5 1M 3M", "-c", "write -q -z 8M 1M", "-c", "write -q -P 0 10M 1M",
                     "-c", "discard -q 12M 1M", "-c", "write -q -P 7 14500k 3k", "disk.qcow2")
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "disk.qcow2", "before.img")
        self.before = (self.path / "before.img").read_bytes()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *create, "copy.qcow2", str(DISK))
        self.start(disk=("driver=qcow2,node-name=disk,file.driver=file,file.filename=disk.qcow2",))
        self.export()
        self.client.execute("blockdev-add", driver="qcow2", node_name="copy", backing=None, discard="unmap",
                            file={"driver": "file", "filename": "copy.qcow2"}, **target)

    def add_below(self):
        """The backing file, which is there by the end only."""
        self.lab.run("cp", "base.img", "below.img")
        self.client.execute("blockdev-add", driver="raw", node_name="below", read_only=True, file={"driver": "file", "filename": "below.img"})

    def attach(self, *more):
        self.client.execute("transaction", actions=[{"type": "blockdev-snapshot", "data": {"node": "below", "overlay": "copy"}}, *more])

    def stays_equal(self, *create, copy_mode="background", sync="top", granularity=0, **target):
        self.begin(*create, **target)
        writer = self.writer()
        guest = self.disk()
        self.mirror(target="copy", sync=sync, copy_mode=copy_mode, granularity=granularity)
        guest.zero(2 * MiB, 20 * MiB)
        guest.pwrite(bytes(256 * KiB), 24 * MiB)
        self.until_ready()
        guest.zero(64 * KiB, 25 * MiB)
        guest.pwrite(bytes(192 * KiB), 26 * MiB)
        self.add_below()
        self.attach()
        guest.zero(192 * KiB, 27 * MiB)
        guest.pwrite(b"z" * 512, 28 * MiB + 512)
        guest.flush()
        self.client.execute("job-complete", id="j")
        self.client.wait_event("BLOCK_JOB_COMPLETED", device="j")
        count = len(writer.log)
        self.until(lambda: len(writer.log) > count + 100, "writes after the pivot")
        writer.finish()
        guest.shutdown()
        return writer

    def assert_equal(self, writer=None):
        """What is read here now, from the target in the daemon and then from its file on the base, is what the disk itself has."""
        now = self.content("disk")
        self.client.execute("quit")
        self.daemon.wait(20)
        self.lab.ended(self.daemon)
        self.lab.run("qemu-img", "check", "-q", "copy.qcow2")
        self.lab.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "below.img", "-F", "raw", "copy.qcow2")
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "copy.qcow2", "after.img")
        self.assertIsNone(first_difference((self.path / "after.img").read_bytes(), now))
        return now

    def quiet(self, *create, copy_mode="background", **target):
        """The same with one guest, whose every write is known."""
        self.begin(*create, **target)
        guest, expected = self.disk(), bytearray(self.before)

        def put(data, at):
            expected[at:at + len(data)] = data
            if any(data):
                guest.pwrite(data, at)
            else:
                guest.zero(len(data), at)

        put(bytes(2 * MiB), 18 * MiB)
        self.mirror(target="copy", sync="top", copy_mode=copy_mode)
        put(bytes(2 * MiB), 20 * MiB)
        self.until_ready()
        put(bytes(128 * KiB), 25 * MiB)
        put(b"x" * 1024, 25 * MiB + 4096)
        put(bytes(4 * KiB), 26 * MiB + 8 * KiB)
        guest.pwrite(bytes(192 * KiB), 29 * MiB)
        expected[29 * MiB:29 * MiB + 192 * KiB] = bytes(192 * KiB)
        self.add_below()
        self.attach()
        put(bytes(192 * KiB), 27 * MiB)
        put(b"z" * 512, 28 * MiB + 512)
        self.client.execute("job-complete", id="j")
        self.client.wait_event("BLOCK_JOB_COMPLETED", device="j")
        put(b"w" * 512, 30 * MiB + 512)
        guest.shutdown()
        self.assertIsNone(first_difference(self.assert_equal(), bytes(expected)))

    def test_every_kind_of_target(self):
        for copy_mode in ("background", "write-blocking"):
            for create in ((), ("-o", "compat=0.10"), ("-o", "extended_l2=on"), ("-o", "cluster_size=4k"),
                           ("-b", "base.img", "-F", "raw")):
                with self.subTest(copy_mode=copy_mode, create=create):
                    self.setUp()
                    self.quiet(*create, copy_mode=copy_mode)

    def test_a_target_that_looks_for_zeroes(self):
        self.quiet(**{"detect-zeroes": "unmap"})

    def test_beside_a_guest_at_work(self):
        for copy_mode in ("background", "write-blocking"):
            for create in ((), ("-o", "compat=0.10")):
                with self.subTest(copy_mode=copy_mode, create=create):
                    self.setUp()
                    writer = self.stays_equal(*create, copy_mode=copy_mode)
                    now = self.assert_equal()
                    self.assertIsNone(self.wrong_block(writer, now))

    def wrong_block(self, writer, now):
        """The first block in the writer's log that does not hold what was written there last, but for what the guest has written, too."""
        expected = self.expected(writer, self.before)
        for at in range(0, 20 * MiB, 4 * KiB):
            if now[at:at + 4 * KiB] != expected[at:at + 4 * KiB]:
                return at
        return None

    def slow(self, bytes_per_s, copy_mode="background"):
        """base <- disk, and copy at a server that lets all pass until the mirror is ready."""
        self.begin()
        self.client.execute("blockdev-del", node_name="copy")
        with open(self.path / "copy.qcow2", "r+b") as file:
            file.truncate(3 * DISK)
        server = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=there.sock,server=on,wait=off", "--monitor", "chardev=c",
                                "--nbd-server", "addr.type=unix,addr.path=there.nbd", "--object", "throttle-group,id=g",
                                "--blockdev", "driver=file,node-name=file,filename=copy.qcow2",
                                "--blockdev", "driver=throttle,node-name=slow,throttle-group=g,file=file",
                                "--export", "type=nbd,id=e,node-name=slow,name=copy,writable=on")
        for name in ("there.sock", "there.nbd"):
            processes.wait_for_socket(self.path / name, server)
        self.there = Qmp(self.path / "there.sock")
        self.addCleanup(self.there.close)
        self.client.execute("blockdev-add", driver="qcow2", node_name="copy", backing=None, discard="unmap",
                            file={"driver": "nbd", "export": "copy", "server": {"type": "unix", "path": "there.nbd"}})
        self.mirror(target="copy", sync="top", copy_mode=copy_mode)
        self.until_ready()
        self.add_below()
        self.limit(bytes_per_s)

    def limit(self, bytes_per_s):
        self.there.execute("qom-set", path="g", property="limits", value={"bps-write": bytes_per_s})

    def goes_on(self):
        """At full speed, to the end."""
        self.limit(0)
        self.client.execute("job-complete", id="j")
        self.client.wait_event("BLOCK_JOB_COMPLETED", device="j")
        now = self.content("disk")
        self.client.execute("quit")
        self.daemon.wait(20)
        self.lab.ended(self.daemon)
        self.there.execute("quit")
        self.lab.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "below.img", "-F", "raw", "copy.qcow2")
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "copy.qcow2", "after.img")
        self.assertIsNone(first_difference((self.path / "after.img").read_bytes(), now))

    def longest_wait(self, seconds, attach):
        """Of a guest that writes all the time, while the target is put on its backing file."""
        guest, longest, ended = self.disk(), [], threading.Event()

        def write():
            for i in itertools.count():
                if ended.is_set():
                    break
                begun = time.monotonic()
                guest.pwrite(bytes([i % 255 + 1]) * 64 * KiB, i * 7919 % 400 * 64 * KiB)
                longest.append(time.monotonic() - begun)
                time.sleep(0.01)

        thread = threading.Thread(target=write)
        thread.start()
        time.sleep(seconds)
        try:
            attach()
        finally:
            ended.set()
            thread.join()
            guest.shutdown()
        return max(longest)

    def test_guests_do_not_wait_for_a_slow_target(self):
        self.slow(100 * KiB)
        self.assertLess(self.longest_wait(2, self.attach), 2)
        self.goes_on()

    def test_a_target_that_does_not_come_to_rest(self):
        """Guests write to both, and wait for it themselves; not for more than what they write."""
        self.slow(KiB, copy_mode="write-blocking")
        guest = self.disk()
        guest.pwrite(b"x" * 512, MiB)                # the job copies its granule, which is let pass; what follows is not
        self.until(lambda: [job["len"] - job["offset"] for job in self.client.execute("query-block-jobs")] == [0], "the copy of a granule")
        written = threading.Thread(target=lambda: guest.pwrite(b"x" * 64 * KiB, 0))
        written.start()
        time.sleep(0.5)
        begun = time.monotonic()
        with self.assertRaisesRegex(QmpError, "Node 'copy' does not come to rest, and guests would wait for it: nothing has changed"):
            self.attach()
        self.assertLess(time.monotonic() - begun, 5)
        self.limit(0)
        written.join()
        guest.shutdown()
        self.attach()
        self.goes_on()

    def test_a_target_that_is_said_to_be_zero(self):
        self.begin()
        self.mirror(target="copy", sync="top", **{"target-is-zero": True})
        self.until_ready()
        self.add_below()
        self.attach()
        self.client.execute("job-complete", id="j")
        self.client.wait_event("BLOCK_JOB_COMPLETED", device="j")
        self.assertIsNone(first_difference(self.assert_equal(), self.before))

    def test_a_transaction_that_fails_puts_it_on_nothing(self):
        self.begin()
        self.mirror(target="copy", sync="top")
        self.until_ready()
        self.add_below()
        with self.assertRaises(QmpError):
            self.attach({"type": "abort", "data": {}})
        copy = next(node for node in self.client.execute("query-named-block-nodes", flat=True) if node["node-name"] == "copy")
        self.assertEqual([child["child"] for child in copy["children"]], ["file"])
        self.attach()
        with self.assertRaisesRegex(QmpError, "used as backing hd of 'copy'"):
            self.attach()
        self.client.execute("job-complete", id="j")
        self.client.wait_event("BLOCK_JOB_COMPLETED", device="j")
        self.assertIsNone(first_difference(self.assert_equal(), self.before))

    def test_who_counts_on_nothing_below_is_not_given_it(self):
        """A mirror of all leaves out what is zero already; so does a backup."""
        self.begin()
        self.add_below()
        for command, options in (("blockdev-mirror", {}), ("blockdev-backup", {"speed": 1})):
            self.client.execute(command, job_id="j", device="disk", target="copy", sync="full", **options)
            if not options:
                self.until_ready()
            with self.assertRaisesRegex(QmpError, "already in use"):
                self.attach()
            self.client.execute("job-cancel", id="j")
            self.until_gone()


if __name__ == "__main__":
    unittest.main()
