"""Side by side with qemu-storage-daemon: both are told the same over QMP, and have to answer the same.

What their versions word differently, or what only one of them has, is not told here.
"""
import json
import unittest

from bed import Bed, MiB, processes
from lab.qmp import Qmp, QmpError

NAME = {"node": "disk", "name": "a"}
MISSING = {"node": "none", "name": "a"}
BACKUP = {"device": "disk", "job-id": "job", "target": "target", "sync": "full"}


def action(kind, /, **data):
    return {"type": kind, "data": data}


class Same(Bed):
    PROGRAMS = ("tidemarkd", "qemu-storage-daemon")

    def setUp(self):
        super().setUp()
        self.clients = {}
        for name in self.PROGRAMS:
            program = self.tidemarkd if name == "tidemarkd" else name
            (self.path / name).mkdir()
            for image in ("disk.img", "target.img"):
                self.raw(f"{name}/{image}", 1 * MiB)
            daemon = self.lab.start(program, "--chardev", "socket,id=c,path=q.sock,server=on,wait=off", "--monitor", "c",
                                    "--blockdev", "file,node-name=file0,filename=disk.img",
                                    "--blockdev", "raw,node-name=disk,file=file0",
                                    "--blockdev", "raw,node-name=target,file.driver=file,file.filename=target.img",
                                    cwd=self.path / name)
            processes.wait_for_socket(self.path / name / "q.sock", daemon)
            # qemu-storage-daemon still serves whoever tried the socket.
            self.until(lambda: self.connected(name), f"{name}'s greeting")

    def connected(self, name):
        try:
            self.clients[name] = Qmp(self.path / name / "q.sock", timeout=5)
        except OSError:
            return False
        self.addCleanup(self.clients[name].close)
        return True

    def answer(self, name, command, arguments):
        try:
            return self.clients[name].execute(command, **arguments)
        except QmpError as error:
            return {"class": error.error_class, "desc": error.desc}

    def same(self, command, **arguments):
        """Tells both; what they answer."""
        ours, theirs = (json.dumps(self.answer(name, command, arguments), sort_keys=True) for name in self.PROGRAMS)
        self.assertEqual(ours, theirs, f"{command} {json.dumps(arguments)}")
        return json.loads(ours)

    def refused(self, command, **arguments):
        answer = self.same(command, **arguments)
        self.assertIn("desc", answer, command)
        return answer["desc"]

    def test_nodes(self):
        file = {"driver": "file", "filename": "target.img"}
        self.refused("blockdev-add", driver="raw", node_name="disk", file=file)
        self.refused("blockdev-add", driver="raw", node_name="", file=file)
        self.refused("blockdev-add", driver="raw", node_name="5", file=file)
        self.refused("blockdev-add", driver="raw", node_name="n" * 32, file=file)
        self.refused("blockdev-add", driver="raw", file=file)
        self.refused("blockdev-add", driver="file", node_name="n", filename="none.img")
        self.refused("blockdev-add", driver="file", node_name="n", filename=".")
        self.refused("blockdev-add", driver="host_device", node_name="n", filename="none.img")
        self.refused("blockdev-del", node_name="none")
        self.refused("blockdev-del", node_name="file0")
        self.same("blockdev-del", node_name="target")

    def test_a_node_that_an_export_uses(self):
        for name in self.PROGRAMS:
            address = {"type": "unix", "data": {"path": str(self.path / name / "nbd.sock")}}
            self.clients[name].execute("nbd-server-start", addr=address)
        self.same("block-export-add", type="nbd", id="e", node_name="disk", name="x")
        self.assertEqual(self.refused("blockdev-del", node_name="disk"), "Node disk is in use")
        for arguments in ({"id": "e", "node-name": "disk", "name": "y"}, {"id": "e2", "node-name": "disk", "name": "x"},
                          {"id": "5", "node-name": "disk"}, {"id": "e2", "node-name": "disk", "bitmaps": ["none"]}):
            self.refused("block-export-add", type="nbd", **arguments)
        self.refused("block-export-del", id="none")
        self.same("query-block-exports")
        self.same("block-export-del", id="e", mode="hard")
        self.same("nbd-server-stop")
        self.refused("nbd-server-stop")
        self.refused("block-export-add", type="nbd", id="e", node_name="disk")

    def test_names_of_backing_files(self):
        for name in self.PROGRAMS:
            (self.path / name / "sub").mkdir()
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}/sub/base.qcow2", "1M")
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", f"{name}/sub/top.qcow2")
        file = {"driver": "file", "filename": "sub/top.qcow2"}
        self.same("blockdev-add", driver="qcow2", node_name="n1", read_only=True, file=file)
        self.same("blockdev-add", driver="qcow2", node_name="n2", read_only=True, file=file, backing=None)
        self.same("blockdev-add", driver="qcow2", node_name="n3", read_only=True, file=file, backing="disk")
        told = [[self.backing_of(name, node) for node in ("n1", "n2", "n3")] for name in self.PROGRAMS]
        self.assertEqual(told[0], told[1])
        self.assertEqual(told[0][0], ("sub/base.qcow2", 1, "base.qcow2", "sub/base.qcow2", "sub/base.qcow2"))

    def backing_of(self, program, node):
        info = next(info for info in self.clients[program].execute("query-named-block-nodes") if info["node-name"] == node)
        image = info["image"]
        return (info.get("backing_file"), info["backing_file_depth"], image.get("backing-filename"),
                image.get("full-backing-filename"), image.get("backing-image", {}).get("filename"))

    def test_bitmaps(self):
        self.same("block-dirty-bitmap-add", **NAME)
        self.refused("block-dirty-bitmap-add", **NAME)
        self.refused("block-dirty-bitmap-add", **MISSING)
        for granularity in (0, 256, 511, 513, 1 << 32):
            self.refused("block-dirty-bitmap-add", node="disk", name="b", granularity=granularity)
        self.refused("block-dirty-bitmap-add", node="disk", name="")
        self.refused("block-dirty-bitmap-add", node="disk", name="n" * 1024)
        for verb in ("remove", "clear", "enable", "disable"):
            self.refused(f"block-dirty-bitmap-{verb}", **MISSING)
            self.refused(f"block-dirty-bitmap-{verb}", node="disk", name="none")
        self.refused("x-debug-block-dirty-bitmap-sha256", **MISSING)
        self.same("x-debug-block-dirty-bitmap-sha256", **NAME)
        for target, source in (("none", "a"), ("a", "none"), ("a", MISSING), ("a", {"node": "disk", "name": "none"})):
            self.refused("block-dirty-bitmap-merge", node="disk", target=target, bitmaps=[source])
        self.refused("block-dirty-bitmap-merge", node="none", target="a", bitmaps=["a"])
        self.same("block-dirty-bitmap-merge", node="disk", target="a", bitmaps=["a", NAME])

    def test_transactions(self):
        self.same("block-dirty-bitmap-add", **NAME)
        self.refused("transaction", actions=[action("block-dirty-bitmap-add", node="disk", name="b"), action("abort")])
        for last in (action("block-dirty-bitmap-clear", **MISSING), action("block-dirty-bitmap-add", **MISSING),
                     action("block-dirty-bitmap-remove", node="disk", name="none"), action("block-dirty-bitmap-add", **NAME),
                     action("blockdev-backup", **BACKUP | {"target": "none"}), action("nonsense")):
            self.refused("transaction", actions=[action("block-dirty-bitmap-add", node="disk", name="b"), last])
        self.refused("block-dirty-bitmap-remove", node="disk", name="b")
        self.same("transaction", actions=[])

    def made(self, **options):
        """Both make an image; how the jobs ended, and what the image is."""
        told = []
        for name in self.PROGRAMS:
            client = self.clients[name]
            client.execute("blockdev-create", job_id="job", options=options)
            ended = client.wait_job("job")
            info = self.lab.run("qemu-img", "info", "-U", "--output=json", self.path / name / "new.img", ok=(0, 1)).stdout
            checked = self.lab.run("qemu-img", "check", "-q", "-U", self.path / name / "new.img", ok=None).returncode
            kept = {key: value for key, value in json.loads(info or "{}").items() if key in ("virtual-size", "cluster-size", "format-specific")}
            told.append({"error": ended.get("error"), "status": ended["status"], "type": ended["type"], "image": kept, "check": checked})
        self.assertEqual(told[0], told[1], options)
        return told[0]

    def test_images_made(self):
        file = {"driver": "file", "filename": "new.img"}
        self.made(**file, size=MiB)
        self.made(**file | {"filename": "none/new.img"}, size=MiB)
        self.made(**file | {"filename": "."}, size=MiB)
        self.made(**file, size=0)
        self.same("blockdev-add", node_name="new", **file)
        image = {"driver": "qcow2", "file": "new", "size": MiB}
        for change in ({}, {"size": 0}, {"size": 511}, {"cluster-size": 512}, {"cluster-size": 2 * MiB}, {"cluster-size": 1000},
                       {"cluster-size": 4 * MiB}, {"version": "v2"}, {"version": "v2", "compression-type": "zstd"},
                       {"compression-type": "zstd"}, {"refcount-bits": 1}, {"refcount-bits": 3}, {"refcount-bits": 64},
                       {"refcount-bits": 128}, {"refcount-bits": 0}, {"version": "v2", "refcount-bits": 8}, {"lazy-refcounts": True},
                       {"version": "v2", "lazy-refcounts": True}, {"backing-fmt": "raw"}):
            self.made(**image | change)

    def test_backups(self):
        self.same("block-dirty-bitmap-add", **NAME)
        for change in ({"sync": "incremental"}, {"sync": "incremental", "bitmap": "none"}, {"sync": "bitmap", "bitmap": "a"},
                       {"bitmap-mode": "always"}, {"bitmap": "a"}, {"sync": "none", "bitmap": "a", "bitmap-mode": "always"},
                       {"sync": "top", "bitmap": "a", "bitmap-mode": "never"}, {"bitmap": "a", "bitmap-mode": "never"},
                       {"sync": "incremental", "bitmap": "a", "bitmap-mode": "never"}, {"target": "disk"}, {"target": "none"},
                       {"device": "none"}, {"speed": -1}, {"job-id": "5"}, {"sync": "nonsense"}, {"on-target-error": "nonsense"}):
            self.refused("blockdev-backup", **BACKUP | change)
        for verb in ("cancel", "pause", "resume", "complete", "finalize", "dismiss"):
            self.refused(f"job-{verb}", id="none")
        for verb in ("cancel", "pause", "resume", "complete"):
            self.refused(f"block-job-{verb}", device="none")
        for verb in ("finalize", "dismiss"):
            self.refused(f"block-job-{verb}", id="none")
        self.refused("block-job-set-speed", device="none", speed=1)
        self.same("query-jobs")
        self.same("query-block-jobs")


if __name__ == "__main__":
    unittest.main()
