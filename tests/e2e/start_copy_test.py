"""A copy of the disk as it was when the job started (docs/decisions/0010-copy-at-the-start.md): what people know of mirrors."""
import subprocess
import unittest

import nbd
from bed import KiB, MiB, Bed
from lab import processes
from lab.qmp import Qmp


class StartCopy(Bed):
    def begin(self):
        self.qcow2("disk.qcow2")
        self.serve(f"{self.path}/disk.qcow2=disk")
        self.client = self.qmp()

    def add(self, name, driver="qcow2", size=8 * MiB, fill=None):
        path = self.path / f"{name}.{driver}"
        self.lab.run("qemu-img", "create", "-q", "-f", driver, path, size)
        if fill is not None:
            self.lab.run("qemu-io", "-f", driver, "-c", f"write -q -P {fill} 0 {size}", path)
        self.client.execute("blockdev-add", driver=driver, **{"node-name": name}, discard="unmap",
                            file={"driver": "file", "filename": str(path), "discard": "unmap"})
        return path

    def ended(self, job):
        self.until(lambda: all(one["id"] != job for one in self.client.execute("query-jobs")), "it has ended")

    def flat(self, path):
        driver = path.suffix[1:]
        self.lab.run("qemu-img", "convert", "-U", "-f", driver, "-O", "raw", path, "flat.raw")
        return (self.path / "flat.raw").read_bytes()

    def backup(self, target, job="j", **options):
        self.client.execute("blockdev-backup", device="disk", target=target, **{"job-id": job},
                            **{name.replace("_", "-"): value for name, value in options.items()})

    def test_what_guests_write_meanwhile_is_not_in_it(self):
        self.begin()
        path = self.add("target")
        before = self.content()
        self.backup("target", sync="full", speed=MiB)
        self.change(seed=7)
        self.client.execute("block-job-set-speed", device="j", speed=0)
        self.ended("j")
        self.assertEqual((self.flat(path) == before, self.content() == before), (True, False))

    def mirror(self, target, **options):
        self.client.execute("blockdev-mirror", device="disk", target=target, **{"job-id": "j"},
                            **{name.replace("_", "-"): value for name, value in options.items()})
        self.client.wait_event("BLOCK_JOB_READY", device="j")
        self.client.execute("block-job-cancel", device="j")

    def test_what_became_zero_hides_what_is_put_below_it_later(self):
        """An increment in an image that knows nothing of its base yet, of both versions, or that another program serves without it."""
        for copy in (self.backup, self.mirror):
            with self.subTest(copy=copy.__name__):
                self.setUp()
                self.increments(copy)

    def increments(self, copy):
        self.begin()
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b")
        full = self.add("full")
        self.backup("full", sync="full")
        self.ended("j")
        self.client.execute("blockdev-del", **{"node-name": "full"})
        self.disk().zero(MiB, 0)
        now = self.content()
        for compat in ("1.1", "0.10", "nbd"):
            name = f"increment-{compat}"
            path = self.path / f"{name}.qcow2"
            if compat == "nbd":
                self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", full, "-F", "qcow2", path, 8 * MiB)
                server = self.lab.start("qemu-nbd", "-t", "-k", self.path / "target.sock", "--image-opts",
                                        f"driver=qcow2,file.filename={path},backing=", "--discard=unmap")
                processes.wait_for_socket(self.path / "target.sock", server)
                self.client.execute("blockdev-add", driver="nbd", **{"node-name": name},
                                    server={"type": "unix", "path": str(self.path / "target.sock")})
            else:
                self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"compat={compat}", path, 8 * MiB)
                self.client.execute("blockdev-add", driver="qcow2", **{"node-name": name}, discard="unmap",
                                    file={"driver": "file", "filename": str(path), "discard": "unmap"})
            copy(name, sync="bitmap", bitmap="b", bitmap_mode="never")
            self.ended("j")
            self.client.execute("blockdev-del", **{"node-name": name})
            if compat == "nbd":
                server.terminate()
                server.wait(20)
                self.lab.ended(server)
            else:
                self.lab.run("qemu-img", "rebase", "-u", "-b", full, "-F", "qcow2", path)
            self.assertTrue(self.flat(path) == now, compat)

    def test_what_is_zero_takes_no_space_in_a_copy_of_all(self):
        """A disk with nothing below it, and a target of a version that cannot say zero."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", 8 * MiB)
        self.serve(f"{self.path}/disk.qcow2=disk")
        self.client = self.qmp()
        self.change(seed=5)
        self.disk().zero(4 * MiB, 4 * MiB)
        for verb, name, sync in (("backup", "a", "full"), ("backup", "b", "top"), ("mirror", "c", "top")):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", f"{name}.qcow2", 8 * MiB)
            self.client.execute("blockdev-add", driver="qcow2", **{"node-name": name},
                                file={"driver": "file", "filename": str(self.path / f"{name}.qcow2")})
            self.client.execute(f"blockdev-{verb}", device="disk", target=name, sync=sync, **{"job-id": "j"})
            if verb == "mirror":
                self.client.wait_event("BLOCK_JOB_READY", device="j")
                self.client.execute("block-job-cancel", device="j")
            self.ended("j")
            self.client.execute("blockdev-del", **{"node-name": name})
            self.assertTrue(self.flat(self.path / f"{name}.qcow2") == self.content())
            self.assertLess((self.path / f"{name}.qcow2").stat().st_blocks * 512, 5 * MiB, name)

    def test_what_was_zero_hides_what_is_put_below_old_data_later(self):
        """A filter was added by hand, above an image that got the disk below it only then."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", 8 * MiB)
        self.serve(f"{self.path}/disk.qcow2=disk")
        self.client = self.qmp()
        self.client.execute("block-export-del", id="disk", mode="hard")
        self.client.wait_event("BLOCK_EXPORT_DELETED", id="disk")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "old.qcow2", 8 * MiB)
        old = {"driver": "qcow2", "node-name": "old", "backing": None, "file": {"driver": "file", "filename": "old.qcow2"}}
        self.client.execute("blockdev-add", **old)
        self.client.execute("blockdev-add", driver="copy-before-write", file="disk", target="old", **{"node-name": "filter"})
        self.client.execute("block-export-add", type="nbd", id="disk", name="disk", writable=True, **{"node-name": "filter"})
        self.change(seed=7)
        self.client.execute("blockdev-reopen", options=[{**old, "backing": "disk"}])
        self.client.execute("block-export-add", type="nbd", id="old", name="old", **{"node-name": "old"})
        self.assertEqual(self.content("old") == bytes(8 * MiB), True)

    def test_who_reads_a_moment_through_an_overlay_is_waited_for(self):
        """Slow reads of the disk below, which a guest overwrites meanwhile."""
        self.begin()
        for name in ("moment", "above"):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", 8 * MiB)
        point = self.content()
        add = self.client.execute
        add("block-export-del", id="disk")
        self.until(lambda: not self.client.execute("query-block-exports"), "the end of the export")
        add("object-add", **{"qom-type": "throttle-group", "id": "slow", "limits": {"iops-read": 1}})
        add("blockdev-add", driver="throttle", **{"node-name": "slowly", "throttle-group": "slow", "file": "disk"})
        for name, backing in (("moment", "slowly"), ("above", "moment")):
            add("blockdev-add", driver="qcow2", backing=backing, file={"driver": "file", "filename": str(self.path / f"{name}.qcow2")},
                **{"node-name": name, "read-only": name == "above"})
            if name == "moment":
                add("blockdev-add", driver="copy-before-write", file="disk", target="moment", **{"node-name": "guest"})
        add("block-export-add", type="nbd", id="guest", name="guest", writable=True, **{"node-name": "guest"})
        add("block-export-add", type="nbd", id="above", name="above", **{"node-name": "above"})
        reader, guest, at = self.disk("above"), self.disk("guest"), 512 * KiB
        others, last = [nbd.Buffer(4 * KiB) for _ in range(4)], nbd.Buffer(4 * KiB)
        for n, other in enumerate(others):               # as many as the throttle's burst, and more
            reader.aio_pread(other, n * 64 * KiB)
        waiting = reader.aio_pread(last, at)
        for _ in range(5):
            reader.poll(20)
        guest.pwrite(b"B" * 64 * KiB, at)
        while not reader.aio_command_completed(waiting):
            reader.poll(100)
        self.assertEqual(bytes(last.to_bytearray()), point[at:at + 4 * KiB])

    def test_one_that_was_aborted_goes_on(self):
        self.begin()
        path = self.add("target")
        self.run_tidemark("bitmap", "add", "disk", "todo")
        self.backup("target", sync="full", bitmap="todo", bitmap_mode="always", speed=MiB)
        self.change(seed=3)
        self.until(lambda: self.client.execute("query-jobs")[0]["current-progress"] > MiB, "it has begun")
        self.client.execute("job-cancel", id="j")
        self.ended("j")
        left = self.json("bitmap", "list", "disk")[0]["count"]
        self.assertTrue(0 < left < 8 * MiB, left)
        before = self.content()
        self.backup("target", sync="bitmap", bitmap="todo", bitmap_mode="always", speed=MiB)
        self.change(seed=4)
        self.client.execute("block-job-set-speed", device="j", speed=0)
        self.ended("j")
        self.assertEqual(self.flat(path) == before, True)

    def test_zeroes(self):
        self.begin()
        for unmap in (True, False):
            path = self.add(f"raw{int(unmap)}", "raw", fill=9)
            self.backup(f"raw{int(unmap)}", sync="full", unmap=unmap)
            self.ended("j")
            self.assertEqual(path.read_bytes() == self.content(), True)
            self.assertEqual(path.stat().st_blocks * 512 >= 8 * MiB, not unmap)

    def test_a_target_that_is_said_to_be_zero_is_not_zeroed(self):
        self.begin()
        told, zeroed = self.add("told", "raw", fill=9), self.add("zeroed", "raw", fill=9)
        for name in ("told", "zeroed"):
            self.backup(name, sync="full", target_is_zero=name == "told")
            self.ended("j")
        self.assertEqual(told.read_bytes()[-KiB:], bytes([9]) * KiB)
        self.assertEqual(zeroed.read_bytes() == self.content(), True)

    def test_to_another_daemon(self):
        self.begin()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "there.qcow2", 8 * MiB)
        there = self.lab.start(self.tidemark, "serve", "there.qcow2=there", "--nbd", "there.nbd", "--qmp", "there.qmp", stdout=subprocess.DEVNULL)
        for name in ("there.qmp", "there.nbd"):
            processes.wait_for_socket(self.path / name, there)
        self.client.execute("blockdev-add", driver="nbd", export="there", **{"node-name": "target"},
                            server={"type": "unix", "path": str(self.path / "there.nbd")})
        before = self.content()
        self.client.execute("transaction", actions=[{"type": "blockdev-backup", "data": {
            "device": "disk", "target": "target", "sync": "full", "job-id": "j", "target-is-zero": True, "speed": MiB}}])
        self.change(seed=5)
        self.client.execute("block-job-set-speed", device="j", speed=0)
        self.ended("j")
        self.client.execute("blockdev-del", **{"node-name": "target"})
        with Qmp(self.path / "there.qmp") as client:
            client.execute("quit")
        there.wait(20)
        self.assertEqual(self.flat(self.path / "there.qcow2") == before, True)


if __name__ == "__main__":
    unittest.main()
