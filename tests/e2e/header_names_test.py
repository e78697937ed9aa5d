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

    def test_what_jobs_leave_on_a_part_of_a_file(self):
        size = 8 * 2 ** 20
        (self.path / "two.raw").write_bytes(b"A" * size + b"B" * size)
        part = {"driver": "raw", "offset": size, "size": size, "file": {"driver": "file", "filename": str(self.path / "two.raw")}}
        for command in ("block-stream", "block-commit"):
            for name in ("mid", "top"):
                self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", str(size))
            self.start()
            self.do("blockdev-add", **{"node-name": "part", **part})
            self.add("mid", self.path / "mid.qcow2", backing="part")
            self.add("top", self.path / "top.qcow2", backing="mid")
            self.export("top")
            names = {"base-node": "part"} if command == "block-stream" else {"base-node": "part", "top-node": "mid"}
            with Qmp(self.path / "qmp.sock") as qmp:
                qmp.execute(command, **{"job-id": "j", "device": "top", **names})
                qmp.wait_event("BLOCK_JOB_COMPLETED", device="j")
            content = self.content("top")
            self.assertTrue(content == b"B" * size)
            self.end()
            self.opens_anew("top.qcow2", content)

    def test_nodes_that_are_given_are_what_the_image_names(self):
        self.image("base.qcow2", 1)
        self.image("top.qcow2", 2, "-b", "base.qcow2", "-F", "qcow2")
        self.start()
        self.add("base", self.path / "base.qcow2")
        self.add("top", self.path / "top.qcow2", backing="base")
        self.export("top")
        self.take("top", self.path / "o.qcow2", "o")
        self.guest_writes("top", 3)
        self.assertIn("[2] base.qcow2 <- o[1] top.qcow2 <- o[0] o.qcow2", self.snapshot("list", "o"))
        content = self.content("top")
        self.end()
        self.assertEqual(self.header("o.qcow2"), str(self.path / "top.qcow2"))
        self.opens_anew("o.qcow2", content)
        self.offline()
        self.assertIn("[2] base.qcow2 <- [1] top.qcow2 <- [0] o.qcow2", self.snapshot("list", "o.qcow2"))
        self.run_tidemark("chain", "rebase", "o.qcow2", "")
        self.assertEqual(self.flat("o.qcow2") == content, True)

    def test_a_snapshot_beside_such_an_image(self):
        self.image("base.qcow2", 1)
        self.image("top.qcow2", 2, "-b", "base.qcow2", "-F", "qcow2")
        self.start()
        self.add("base", self.path / "base.qcow2")
        self.add("top", self.path / "top.qcow2", backing="base")
        self.export("top")
        self.snapshot("create", "top", "--name", "s")
        self.snapshot("create", "top", "--name", "t")
        content = self.content("top")
        self.end()
        self.assertEqual(self.chain("top.t.qcow2"), ["top.t.qcow2", "top.s.qcow2", "top.qcow2", "base.qcow2"])
        self.opens_anew("top.t.qcow2", content)

    def test_relative_names_one_snapshot_after_another(self):
        self.image("d/base.qcow2", 1)
        self.start()
        self.add("n0", "d/base.qcow2")
        self.export("n0")
        for n, name in enumerate(("e/o1.qcow2", "d/o2.qcow2", "d/o3.qcow2")):
            self.take(f"n{n}", name, f"n{n + 1}")
            self.guest_writes("n0", n + 2)
        content = self.content("n0")
        self.end()
        self.assertEqual([self.header(name) for name in ("e/o1.qcow2", "d/o2.qcow2", "d/o3.qcow2")],
                         [str(self.path / "d/base.qcow2"), str(self.path / "e/o1.qcow2"), "o2.qcow2"])
        self.opens_anew("d/o3.qcow2", content)

    def test_many_layers_that_are_given(self):
        """Each is named once, and not again by every one that stands on it."""
        self.start()
        for n in range(30):
            below = ["-b", f"{n - 1}.qcow2", "-F", "qcow2"] if n else []
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *below, f"{n}.qcow2", *([] if n else [SIZE]))
            self.add(f"n{n}", self.path / f"{n}.qcow2", **({"backing": f"n{n - 1}"} if n else {}))
        shown = {node["node-name"]: node["file"] for node in self.do("query-named-block-nodes", flat=True)}
        self.assertEqual((shown["n0"], shown["n29"].count("filename")), (str(self.path / "0.qcow2"), 30))      # as QEMU tells them
        self.export("n29")
        self.take("n29", self.path / "o.qcow2", "o")
        content = self.content("n29")
        self.end()
        self.opens_anew("o.qcow2", content)

    def test_another_base_than_the_image_names(self):
        """The header says so, with names from the root on."""
        for seed, name in enumerate(("d/base.qcow2", "d/instead.qcow2"), 1):
            self.image(name, seed)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "d/top.qcow2")
        for given, name in (("d/instead.qcow2", "e/o.qcow2"), (None, "e/p.qcow2")):
            self.start()
            if given:
                self.add("base", given)
            self.add("top", "d/top.qcow2", backing=given and "base")
            self.export("top")
            self.take("top", name, "o")
            self.guest_writes("top", 4)
            content = self.content("top")
            self.end()
            said = json.loads(self.header(name).removeprefix("json:"))
            self.assertEqual(said["file"]["filename"], str(self.path / "d/top.qcow2"))
            self.opens_anew(name, content)
            os.unlink(self.path / name)

    def test_another_format_than_the_image_names(self):
        self.image("base.qcow2", 1)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "raw", "top.qcow2")
        self.start()
        self.add("base", self.path / "base.qcow2")
        self.add("top", self.path / "top.qcow2", backing="base")
        self.export("top")
        self.take("top", self.path / "o.qcow2", "o")
        content = self.content("top")
        self.end()
        self.opens_anew("o.qcow2", content)

    def test_a_filter_is_not_in_the_image(self):
        self.image("base.qcow2", 1)
        self.image("top.qcow2", 2, "-b", "base.qcow2", "-F", "qcow2")
        self.start()
        self.do("object-add", **{"qom-type": "throttle-group", "id": "g"})
        self.add("base", self.path / "base.qcow2")
        for name, below in (("slow-base", "base"), ("slow", "top")):
            self.do("blockdev-add", **{"driver": "throttle", "node-name": name, "throttle-group": "g", "file": below})
            if name == "slow-base":
                self.add("top", self.path / "top.qcow2", backing=name)
        self.export("slow")
        self.take("slow", self.path / "o.qcow2", "o")
        content = self.content("slow")
        self.end()
        self.opens_anew("o.qcow2", content)

    def test_a_colon_is_no_protocol(self):
        for base, name, said in (("d/b:ase.qcow2", "d/o.qcow2", "./b:ase.qcow2"), ("b:x.qcow2", "o.qcow2", "./b:x.qcow2"),
                                 ("./b:x.qcow2", "./o2.qcow2", "./b:x.qcow2"), ("b:x.qcow2", "e/o.qcow2", f"{self.path}/b:x.qcow2")):
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
