"""auto-read-only of files: open for writing only while somebody writes, so that others can have them meanwhile, as a base that several
machines stand on."""
import os
import unittest

from bed import MiB, Bed
from lab import processes
from lab.qmp import Qmp, QmpError

DISK = 4 * MiB


class AutoReadOnly(Bed):
    def setUp(self):
        super().setUp()
        self.raw("disk.raw", DISK)
        self.qcow2("base.qcow2", DISK)
        for name in ("one", "two"):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", f"{name}.qcow2")
        self.bound = ()
        self.here = self.daemon_of("here")

    def daemon_of(self, name):
        self.daemon = self.lab.start(*self.bound, self.tidemarkd, "--chardev", f"socket,id=c,path={name}.sock,server=on,wait=off",
                                     "--monitor", "c", "--nbd-server", f"addr.type=unix,addr.path={name}.nbd")
        for path in (f"{name}.sock", f"{name}.nbd"):
            processes.wait_for_socket(self.path / path, self.daemon)
        client = Qmp(self.path / f"{name}.sock")
        self.addCleanup(client.close)
        return client

    def add_file(self, client, node, name, **more):
        client.execute("blockdev-add", driver="file", filename=name, **{"node-name": node, "auto-read-only": True}, **more)

    def add(self, client, node, file, driver="qcow2", **more):
        client.execute("blockdev-add", driver=driver, file=file, **{"node-name": node}, **more)

    def add_chain(self, client, top):
        """As libvirt does: each file with auto-read-only, each backing image read-only."""
        self.add_file(client, "base-file", "base.qcow2")
        self.add(client, "base", "base-file", **{"read-only": True})
        self.add_file(client, "top-file", f"{top}.qcow2")
        self.add(client, "top", "top-file", backing="base")

    def mode(self, name):
        """How the daemon that was started last has a file open: the modes."""
        modes = set()
        directory = f"/proc/{self.daemon.pid}/fd"
        for fd in os.listdir(directory):
            try:
                if os.path.basename(os.readlink(f"{directory}/{fd}")) != name:
                    continue
                with open(f"/proc/{self.daemon.pid}/fdinfo/{fd}", encoding="ascii") as told:
                    flags = next(int(line.split()[1], 8) for line in told if line.startswith("flags:"))
            except FileNotFoundError:
                continue
            modes.add("rw" if flags & (os.O_WRONLY | os.O_RDWR) else "ro")
        return modes

    def until_mode(self, name, mode):
        self.until(lambda: self.mode(name) == {mode}, f"{name} is {mode}")

    def test_it_follows_who_uses_it(self):
        self.add_file(self.here, "file", "base.qcow2")
        self.assertEqual(self.mode("base.qcow2"), {"ro"})
        self.add(self.here, "image", "file", **{"read-only": True})
        self.assertEqual(self.mode("base.qcow2"), {"ro"})
        options = {"driver": "qcow2", "node-name": "image", "file": "file"}
        self.here.execute("blockdev-reopen", options=[options])
        self.assertEqual(self.mode("base.qcow2"), {"rw"})
        self.here.execute("blockdev-reopen", options=[{**options, "read-only": True}])
        self.assertEqual(self.mode("base.qcow2"), {"ro"})
        self.here.execute("blockdev-del", **{"node-name": "image"})
        self.add(self.here, "image", "file")
        self.assertEqual(self.mode("base.qcow2"), {"rw"})
        self.here.execute("blockdev-del", **{"node-name": "image"})
        self.assertEqual(self.mode("base.qcow2"), {"ro"})
        node, = self.here.execute("query-named-block-nodes")
        self.assertFalse(node["ro"])

    def test_exports_and_jobs_write_to_it(self):
        self.add_file(self.here, "file", "disk.raw")
        self.here.execute("block-export-add", type="nbd", id="e", **{"node-name": "file", "name": "disk", "writable": True})
        self.assertEqual(self.mode("disk.raw"), {"rw"})
        self.lab.run("qemu-io", "-f", "raw", "-c", "write -q -P 7 0 64k", f"nbd+unix:///disk?socket={self.path}/here.nbd")
        self.here.execute("block-export-del", id="e", mode="hard")
        self.until_mode("disk.raw", "ro")
        self.add(self.here, "source", {"driver": "file", "filename": "base.qcow2"})
        for command in ("blockdev-backup", "blockdev-mirror"):
            self.here.execute(command, device="source", target="file", sync="full", **{"job-id": "j"})
            self.assertEqual(self.mode("disk.raw"), {"rw"})
            if command == "blockdev-mirror":
                self.here.wait_event("BLOCK_JOB_READY", device="j")
                self.here.execute("block-job-cancel", device="j")
            self.here.wait_event("BLOCK_JOB_COMPLETED", device="j")
            self.until_mode("disk.raw", "ro")
        self.here.execute("block_resize", **{"node-name": "file", "size": 2 * DISK})
        self.until_mode("disk.raw", "ro")
        self.add(self.here, "filter", "file", driver="copy-on-read")
        self.assertEqual(self.mode("disk.raw"), {"rw"})

    def test_two_machines_stand_on_one_base(self):
        self.add_chain(self.here, "one")
        there = self.daemon_of("there")
        self.add_chain(there, "two")
        for name, client in (("here", self.here), ("there", there)):
            client.execute("block-export-add", type="nbd", id="e", **{"node-name": "top", "name": "disk", "writable": True})
            self.lab.run("qemu-io", "-f", "raw", "-c", "write -q -P 9 0 64k", f"nbd+unix:///disk?socket={self.path}/{name}.nbd")
        # Who is to write the base has to have it alone.
        with self.assertRaisesRegex(QmpError, 'Failed to get "write" lock'):
            there.execute("block-commit", device="top", **{"job-id": "j", "top-node": "top", "base-node": "base"})
        self.assertEqual(self.mode("base.qcow2"), {"ro"})

    def test_a_commit_writes_to_the_base(self):
        self.add_chain(self.here, "one")
        self.here.execute("block-export-add", type="nbd", id="e", **{"node-name": "top", "name": "disk", "writable": True})
        uri = f"nbd+unix:///disk?socket={self.path}/here.nbd"
        self.lab.run("qemu-io", "-f", "raw", "-c", "write -q -P 9 0 64k", uri)
        self.here.execute("blockdev-snapshot-sync", **{"node-name": "top", "snapshot-file": "over.qcow2", "snapshot-node-name": "over"})
        self.until_mode("one.qcow2", "ro")
        self.lab.run("qemu-io", "-f", "raw", "-c", "write -q -P 8 64k 64k", uri)
        self.here.execute("block-commit", device="over", **{"job-id": "j", "top-node": "top", "base-node": "base"})
        self.here.wait_event("BLOCK_JOB_COMPLETED", device="j")
        self.until_mode("base.qcow2", "ro")
        self.here.execute("blockdev-del", **{"node-name": "top"})
        self.here.execute("block-commit", device="over", **{"job-id": "k"})
        self.here.wait_event("BLOCK_JOB_READY", device="k")
        self.assertEqual(self.mode("base.qcow2"), {"rw"})
        self.here.execute("job-complete", id="k")
        self.here.wait_event("BLOCK_JOB_COMPLETED", device="k")
        self.lab.run("qemu-io", "-f", "raw", "-c", "write -q -P 7 128k 64k", "-c", "flush", uri)
        read = self.lab.run("qemu-io", "-r", "-U", "-f", "qcow2", *(word for i, byte in enumerate((9, 8, 7))
                                                                    for word in ("-c", f"read -P {byte} {i * 64}k 64k")), "base.qcow2")
        self.assertNotIn("failed", read.stdout)
        self.assertEqual(self.mode("base.qcow2"), {"rw"})

    def test_persistent_bitmaps_are_written_without_a_guest(self):
        self.add_file(self.here, "file", "disk.raw")
        self.here.execute("block-dirty-bitmap-add", node="file", name="b", persistent=True)
        self.assertEqual(self.mode("disk.raw"), {"rw"})
        self.here.execute("quit")
        self.daemon.wait(20)
        self.lab.ended(self.daemon)
        again = self.daemon_of("again")
        self.add_file(again, "file", "disk.raw")
        again.execute("block-dirty-bitmap-clear", node="file", name="b")
        bitmap, = again.execute("query-named-block-nodes")[0]["dirty-bitmaps"]
        self.assertEqual((bitmap["persistent"], bitmap["count"]), (True, 0))

    def test_it_is_described_anew(self):
        self.add_file(self.here, "file", "disk.raw")
        options = {"driver": "file", "node-name": "file", "filename": "disk.raw"}
        for more, mode in (({"auto-read-only": True}, "ro"), ({}, "rw"), ({"read-only": True}, "ro"), ({"auto-read-only": True}, "ro")):
            self.here.execute("blockdev-reopen", options=[{**options, **more}])
            self.until_mode("disk.raw", mode)
            self.assertEqual(self.here.execute("query-named-block-nodes")[0]["ro"], "read-only" in more)

    def test_inactive_and_back(self):
        self.add_file(self.here, "file", "disk.raw")
        self.add(self.here, "image", "file", driver="raw")
        for _ in range(2):
            self.here.execute("blockdev-set-active", active=False)
            self.lab.run("qemu-io", "-f", "raw", "-c", "write -q -P 5 0 64k", "disk.raw")
            self.here.execute("blockdev-set-active", active=True)
            self.assertEqual(self.mode("disk.raw"), {"rw"})
        self.here.execute("blockdev-del", **{"node-name": "image"})
        self.here.execute("blockdev-set-active", active=False)
        self.here.execute("blockdev-set-active", active=True)
        self.until_mode("disk.raw", "ro")
        self.add(self.here, "image", "file", driver="raw")
        self.assertEqual(self.mode("disk.raw"), {"rw"})

    def test_a_file_that_cannot_be_written(self):
        """It can be added and read, and who would write to it is told."""
        (self.path / "disk.raw").chmod(0o444)
        self.bound = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override") if os.geteuid() == 0 else ()
        client = self.daemon_of("bound")
        self.add_file(client, "file", "disk.raw")
        client.execute("block-export-add", type="nbd", id="r", **{"node-name": "file", "name": "r"})
        self.add(client, "image", "file", driver="raw", **{"read-only": True})
        for refused in (lambda: client.execute("block-export-add", type="nbd", id="w", **{"node-name": "file", "name": "w", "writable": True}),
                        lambda: self.add(client, "other", "file", driver="raw"),
                        lambda: client.execute("block_resize", **{"node-name": "file", "size": 2 * DISK})):
            with self.assertRaisesRegex(QmpError, "Permission denied"):
                refused()
        self.assertEqual(self.lab.run("qemu-io", "-r", "-f", "raw", "-c", "read -q 0 64k", f"nbd+unix:///r?socket={self.path}/bound.nbd").stderr, "")


if __name__ == "__main__":
    unittest.main()
