"""What tidemarkd writes into headers as the name of what is below: a daemon in any directory opens it again, as qemu-img does."""
import json
import os
import unittest

from bed import processes
from lab.qmp import Qmp
from snapshot_bed import SIZE, SnapshotBed


class HeaderNames(SnapshotBed):
    def setUp(self):
        super().setUp()
        for name in ("d", "e", "other"):
            (self.path / name).mkdir()

    def image(self, name, seed, *words):
        """By qemu-img, under a name that it would take for another one's."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *words, "tmp.qcow2", SIZE)
        self.write("tmp.qcow2", seed)
        (self.path / "tmp.qcow2").rename(self.path / name)

    def start(self, cwd="."):
        for name in ("nbd.sock", "qmp.sock"):
            (self.path / name).unlink(missing_ok=True)
        daemon = self.lab.start(self.tidemarkd, "--chardev", f"socket,id=c,path={self.path}/qmp.sock,server=on,wait=off", "--monitor",
                                "c", "--nbd-server", f"addr.type=unix,addr.path={self.path}/nbd.sock", cwd=self.path / cwd)
        processes.wait_for_socket(self.path / "qmp.sock", daemon)
        self.daemon = daemon

    def do(self, command, **arguments):
        with Qmp(self.path / "qmp.sock") as qmp:
            return qmp.execute(command, **arguments)

    def add(self, node, file, **options):
        self.do("blockdev-add", **{"driver": "qcow2", "node-name": node, "file": {"driver": "file", "filename": str(file)}, **options})

    def export(self, node):
        self.do("block-export-add", type="nbd", id=node, **{"node-name": node}, name=node, writable=True)

    def take(self, node, file, new):
        self.do("blockdev-snapshot-sync", **{"node-name": node, "snapshot-file": str(file), "snapshot-node-name": new})

    def end(self):
        self.do("quit")
        self.assertEqual(self.daemon.wait(20), 0)

    def header(self, name):
        told = self.lab.run("qemu-img", "info", "-U", "--output=json", self.path / name).stdout
        return json.loads(told)["backing-filename"]

    def opens_anew(self, name, content):
        """By its name alone, wherever one is."""
        for cwd in (".", "other"):
            self.start(cwd)
            self.add("anew", self.path / name)
            self.export("anew")
            self.assertEqual(self.content("anew") == content, True, name)
            self.end()
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path / name, self.path / "theirs", cwd="/")
        self.assertEqual((self.path / "theirs").read_bytes() == content, True, name)

    def test_a_colon_is_no_protocol(self):
        for base, name, said in (("d/b:ase.qcow2", "d/o.qcow2", "./b:ase.qcow2"), ("./b:x.qcow2", "./o2.qcow2", "./b:x.qcow2")):
            with self.subTest(base, over=name):
                self.image(base, 1)
                self.start()
                self.add("n0", base)
                self.export("n0")
                self.take("n0", name, "n1")
                self.guest_writes("n0", 2)
                content = self.content("n0")
                self.end()
                self.assertEqual(self.header(name), said)
                self.opens_anew(name, content)

    def test_jobs_write_no_protocol(self):
        """By a stream, and by a commit."""
        for command, arguments in (("block-stream", {"device": "c", "base-node": "a"}),
                                   ("block-commit", {"device": "c", "top-node": "b", "base-node": "a"})):
            with self.subTest(command):
                self.image("d/c:0.qcow2", 1)
                self.image("d/c1.qcow2", 2, "-b", self.path / "d/c:0.qcow2", "-F", "qcow2")
                self.image("d/c2.qcow2", 3, "-b", self.path / "d/c1.qcow2", "-F", "qcow2")
                self.start()
                self.add("a", "d/c:0.qcow2")
                self.add("b", "d/c1.qcow2", backing="a")
                self.add("c", "d/c2.qcow2", backing="b")
                self.export("c")
                content = self.content("c")
                with Qmp(self.path / "qmp.sock") as qmp:
                    qmp.execute(command, **arguments, **{"job-id": "j"})
                    qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
                self.end()
                self.assertEqual(self.header("d/c2.qcow2"), "./c:0.qcow2")
                self.opens_anew("d/c2.qcow2", content)


if __name__ == "__main__":
    unittest.main()
