"""Chains that become shorter while the disk is in use: what the guide says, under a guest's writes, through kills (kill -9),
and as qemu-img sees it afterwards."""
import json
import os
import random
import threading
import unittest

from bed import KiB, MiB, Bed, first_difference
from chains_guest import Writer
from lab.qmp import Qmp, QmpError

SIZE = 16 * MiB
LAYERS = ["base", "a", "b", "disk"]


class Chains(Bed):
    def make_chain(self, seed=1):
        rng, below = random.Random(seed), []
        for name in LAYERS:
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *below, f"{name}.qcow2", str(SIZE))
            below = ["-b", f"{name}.qcow2", "-F", "qcow2"]
            for _ in range(20):
                at, length = rng.randrange(SIZE // 4096 - 128) * 4096, 4096 * rng.randrange(1, 128)
                kind = f"-P {rng.randrange(256)}" if rng.randrange(4) else "-z"
                self.lab.run("qemu-io", "-c", f"write {kind} {at} {length}", f"{name}.qcow2")
        return self.on_disk()

    def on_disk(self, name="disk"):
        self.lab.run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", f"{name}.qcow2", "now.raw")
        return (self.path / "now.raw").read_bytes()

    def check(self, *names):
        for name in names or LAYERS:
            done = self.lab.run("qemu-img", "check", f"{name}.qcow2", ok=None)
            self.assertIn(done.returncode, (0, 3), done.stdout + done.stderr)

    def serve_chain(self):
        for name in ("nbd.sock", "qmp.sock"):
            (self.path / name).unlink(missing_ok=True)
        self.serve("disk.qcow2=disk")

    def end(self):
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("quit")
        self.assertEqual(self.daemon.wait(30), 0)

    def do(self, command, **arguments):
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute(command, **{key.replace("_", "-"): value for key, value in arguments.items()})
            qmp.wait_event("JOB_STATUS_CHANGE", id=arguments["job_id"], status="null")

    def backing_of(self, name):
        done = self.lab.run("qemu-img", "info", "--output=json", f"{name}.qcow2")
        name = json.loads(done.stdout).get("backing-filename")
        return name and os.path.basename(name)

    JOBS = {
        "stream to nothing": ("block-stream", {}, "disk", None),
        "stream to a base": ("block-stream", {"base": "a.qcow2"}, "disk", "a.qcow2"),
        "commit one": ("block-commit", {"top": "b.qcow2", "base": "a.qcow2"}, "disk", "a.qcow2"),
        "commit two": ("block-commit", {"top": "b.qcow2"}, "disk", "base.qcow2"),
        "commit below": ("block-commit", {"top": "a.qcow2"}, "b", "base.qcow2"),
    }

    def test_a_guest_writes_meanwhile(self):
        for number, (what, (command, arguments, above, below)) in enumerate(self.JOBS.items()):
            with self.subTest(what):
                content = self.make_chain(number)
                self.serve_chain()
                writer = Writer(f"nbd+unix:///disk?socket={self.path / 'nbd.sock'}", content, number)
                writer.start()
                self.do(command, device="disk", job_id="j", **arguments)
                wanted = writer.stop()
                self.assertIsNone(first_difference(self.content("disk"), wanted))
                self.end()
                self.check()
                self.assertEqual(self.backing_of(above), below)
                self.assertIsNone(first_difference(self.on_disk(), wanted))

    def test_killed_and_done_again(self):
        for number, (what, (command, arguments, above, below)) in enumerate(self.JOBS.items()):
            with self.subTest(what):
                content = self.make_chain(number + 100)
                self.serve_chain()
                with Qmp(self.path / "qmp.sock") as qmp:
                    qmp.execute(command, device="disk", **{"job-id": "j", "speed": 8 * MiB}, **arguments)
                    self.until(lambda: qmp.execute("query-jobs")[0]["current-progress"] > SIZE // 3, "a third is done")
                self.daemon.kill()
                self.daemon.wait(20)
                self.lab.ended(self.daemon)
                self.check()
                self.assertIsNone(first_difference(self.on_disk(), content))
                self.serve_chain()
                self.do(command, device="disk", job_id="j", **arguments)
                self.end()
                self.check()
                self.assertEqual(self.backing_of(above), below)
                self.assertIsNone(first_difference(self.on_disk(), content))

    def active_commit(self, **arguments):
        """To the pivot."""
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("block-commit", device="disk", **{"job-id": "j"}, **arguments)
            qmp.wait_event("BLOCK_JOB_READY", device="j")
            qmp.execute("job-complete", id="j")
            qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")

    def test_the_disk_itself_is_committed(self):
        for number, base in enumerate(("b", "a", "base")):
            with self.subTest(base):
                content = self.make_chain(number + 200)
                self.serve_chain()
                writer = Writer(f"nbd+unix:///disk?socket={self.path / 'nbd.sock'}", content, number)
                writer.start()
                self.active_commit(base=f"{base}.qcow2")
                wanted = writer.stop()
                self.assertIsNone(first_difference(self.content("disk"), wanted))
                with Qmp(self.path / "qmp.sock") as qmp:
                    qmp.execute("blockdev-del", **{"node-name": "disk"})
                self.assertIsNone(first_difference(self.content("disk"), wanted))
                self.end()
                self.check()
                self.assertIsNone(first_difference(self.on_disk(base), wanted))

    def test_the_disk_stays_on_what_it_is_committed_to(self):
        for number, base in enumerate(("b", "base")):
            with self.subTest(base):
                content = self.make_chain(number + 400)
                size = (self.path / "disk.qcow2").stat().st_blocks
                self.serve_chain()
                writer = Writer(f"nbd+unix:///disk?socket={self.path / 'nbd.sock'}", content, number)
                writer.start()
                self.active_commit(base=f"{base}.qcow2", **{"keep-active": True})
                wanted = writer.stop()
                self.assertIsNone(first_difference(self.content("disk"), wanted))
                named = {"base": "b.qcow2"} if base == "b" else {}           # the last one, that is
                self.active_commit(**named, **{"keep-active": True})         # what was written meanwhile
                self.end()
                self.check()
                self.assertEqual(self.backing_of("disk"), f"{base}.qcow2")
                self.assertIsNone(first_difference(self.on_disk(), wanted))
                held = json.loads(self.lab.run("qemu-img", "map", "--output=json", "disk.qcow2").stdout)
                self.assertEqual([part for part in held if part["depth"] == 0], [])
                self.assertLess((self.path / "disk.qcow2").stat().st_blocks, size)

    def test_data_beside_an_image_that_stays_on_what_it_is_committed_to(self):
        """What is given up there may be wanted again meanwhile, by who copies what is read."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", SIZE)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=disk.data", "-b", "base.qcow2", "-F", "qcow2", "disk.qcow2")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -q -P 7 0 {SIZE}", "disk.qcow2")
        self.serve_chain()
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("block-export-del", id="disk", mode="hard")
            qmp.wait_event("BLOCK_EXPORT_DELETED", id="disk")
            qmp.execute("blockdev-add", driver="copy-on-read", file="disk", **{"node-name": "above"})
            qmp.execute("block-export-add", type="nbd", id="above", name="above", writable=True, **{"node-name": "above"})
        handles, ended, wrong = [self.disk("above") for _ in range(4)], threading.Event(), []

        def read(handle):
            while not ended.is_set():
                for at in range(0, SIZE, 64 * KiB):
                    if handle.pread(4 * KiB, at) != b"\7" * 4 * KiB:
                        wrong.append(at)

        readers = [threading.Thread(target=read, args=(handle,)) for handle in handles]
        for reader in readers:
            reader.start()
        self.active_commit(base="base.qcow2", **{"keep-active": True})
        ended.set()
        for reader in readers:
            reader.join(20)
        for handle in handles:
            handle.shutdown()
        self.assertEqual(wrong[:4], [])
        self.assertEqual(self.content("above") == b"\7" * SIZE, True)

    def test_killed_while_the_disk_itself_is_committed(self):
        for number, ready in enumerate((False, True)):
            with self.subTest(ready=ready):
                content = self.make_chain(number + 300)
                self.serve_chain()
                with Qmp(self.path / "qmp.sock") as qmp:
                    qmp.execute("block-commit", device="disk", **{"job-id": "j", "speed": 0 if ready else MiB})
                    if ready:
                        qmp.wait_event("BLOCK_JOB_READY", device="j")
                    else:
                        self.until(lambda: qmp.execute("query-jobs")[0]["current-progress"] > MiB, "some is done")
                self.daemon.kill()
                self.daemon.wait(20)
                self.lab.ended(self.daemon)
                self.check()
                self.assertIsNone(first_difference(self.on_disk(), content))
                self.serve_chain()
                self.active_commit()
                self.end()
                self.check()
                self.assertIsNone(first_difference(self.on_disk("base"), content))

    def test_layers_below_are_read_only_again(self):
        self.make_chain()
        self.serve_chain()
        with Qmp(self.path / "qmp.sock") as qmp:
            def writable():
                return sorted(os.path.basename(node["file"]) for node in qmp.execute("query-named-block-nodes", flat=True)
                              if not node["ro"] and node["drv"] == "qcow2")
            qmp.execute("block-commit", device="disk", top="b.qcow2", base="a.qcow2", **{"job-id": "j", "auto-finalize": False})
            qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="pending")
            self.assertEqual(writable(), ["a.qcow2", "disk.qcow2"])
            done = self.lab.run("qemu-io", "-c", "write 0 4k", "a.qcow2", ok=None)
            self.assertIn("lock", done.stdout + done.stderr)
            qmp.execute("job-finalize", id="j")
            qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
            self.assertEqual(writable(), ["disk.qcow2"])
            # Another reader may have it again.
            self.lab.run("qemu-io", "-r", "-c", "read 0 4k", "a.qcow2")
        self.end()


class Alone(Bed):
    """Commits into a base that nobody else may notice, of what guests write to also on one that is longer."""

    def setUp(self):
        super().setUp()
        self.raw("served.raw")
        self.serve("served.raw=served")
        self.client = self.qmp()
        self.raw("base.raw", 3 * MiB)
        for name in ("top", "other"):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", f"{name}.qcow2", MiB)
        self.client.execute("blockdev-add", driver="raw", **{"node-name": "base"}, file={"driver": "file", "filename": "base.raw"})
        self.add("top")

    def add(self, name):
        self.client.execute("blockdev-add", driver="qcow2", **{"node-name": name, "backing": "base"},
                            file={"driver": "file", "filename": f"{name}.qcow2"})

    def commit(self, device="top"):
        self.client.execute("block-commit", **{"job-id": "j", "device": device, "top-node": "top", "base-node": "base", "auto-dismiss": False})

    def test_a_filter_above_the_base(self):
        for base, arguments in (("one.qcow2", {"top-node": "two"}), ("one.qcow2", {"top-node": "two", "base-node": "one"}), (None, {})):
            with self.subTest(arguments=arguments):
                self.setUp()
                for seed, (name, below) in enumerate((("one", None), ("two", "one"), ("three", "two")), 1):
                    on = ["-b", f"{below}.qcow2", "-F", "qcow2"] if below else []
                    self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *on, f"{name}.qcow2", MiB)
                    self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -q -P {seed} {(seed - 1) * 64}k 64k", f"{name}.qcow2")
                self.client.execute("object-add", **{"qom-type": "throttle-group", "id": "g"})
                below = None
                for name in ("one", "two", "three"):
                    self.client.execute("blockdev-add", driver="qcow2", backing=below, file={"driver": "file", "filename": f"{name}.qcow2"},
                                        **{"node-name": name, "read-only": name != "three"})
                    below = name
                    if name == "one":
                        below = "filter"
                        self.client.execute("blockdev-add", driver="throttle", file="one",
                                            **{"node-name": "filter", "throttle-group": "g", "read-only": True})
                self.client.execute("block-commit", device="three", **{"job-id": "j"}, **arguments)
                if base is None:
                    self.client.wait_event("BLOCK_JOB_READY", device="j")
                    self.client.execute("job-complete", id="j")
                self.client.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
                self.client.execute("quit")
                self.assertEqual(self.daemon.wait(20), 0)
                self.lab.ended(self.daemon)
                left = "three.qcow2" if base else "one.qcow2"
                told = json.loads(self.lab.run("qemu-img", "info", "--output=json", left).stdout)
                self.assertEqual(os.path.basename(told.get("backing-filename", "")) or None, base)
                self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", left, "flat.raw")
                flat = (self.path / "flat.raw").read_bytes()
                self.assertEqual([flat[at * 64 * KiB] for at in range(4)], [1, 2, 3, 0])

    def test_another_image_on_the_base(self):
        self.add("other")
        with self.assertRaisesRegex(QmpError, "Node 'base' is busy: 'other' stands on it, too"):
            self.commit()

    def test_another_image_on_the_base_of_an_intermediate_commit(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "top.qcow2", "disk.qcow2", MiB)
        self.add("other")
        self.client.execute("blockdev-add", driver="qcow2", **{"node-name": "disk", "backing": "top"},
                            file={"driver": "file", "filename": "disk.qcow2"})
        with self.assertRaisesRegex(QmpError, "Node 'base' is busy: 'other' stands on it, too"):
            self.commit("disk")

    def test_bitmaps_of_what_shows_the_disk(self):
        self.client.execute("object-add", **{"qom-type": "throttle-group", "id": "g"})
        self.client.execute("blockdev-add", driver="throttle", file="top", **{"node-name": "t", "throttle-group": "g"})
        self.client.execute("block-dirty-bitmap-add", node="t", name="b")
        with self.assertRaisesRegex(QmpError, "node 't', which shows it, has bitmaps"):
            self.commit("t")

    def test_without_guests_a_cancelled_one_lets_go_of_all(self):
        self.commit()
        self.client.wait_event("BLOCK_JOB_READY", device="j")
        self.client.execute("job-cancel", id="j")
        self.client.wait_event("JOB_STATUS_CHANGE", id="j", status="concluded")
        self.client.execute("blockdev-del", **{"node-name": "top"})
        self.client.execute("blockdev-del", **{"node-name": "base"})
        self.client.execute("job-dismiss", id="j")


class Names(Bed):
    def test_a_snapshot_beside_a_job_below_does_not_name_its_filter(self):
        self.qcow2("base.qcow2")
        for name, below in (("mid", "base"), ("top", "mid")):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", f"{below}.qcow2", f"{name}.qcow2")
        self.raw("served.raw")
        self.serve("served.raw=served")
        client = self.qmp()
        for name, below in (("base", None), ("mid", "base"), ("top", "mid")):
            client.execute("blockdev-add", driver="qcow2", **{"node-name": name, "backing": below},
                           file={"driver": "file", "filename": f"{name}.qcow2"})
        client.execute("block-stream", **{"job-id": "j", "device": "mid", "speed": 64 * KiB})
        client.execute("blockdev-snapshot-sync", **{"node-name": "top", "snapshot-node-name": "new", "snapshot-file": "new.qcow2"})
        info = self.lab.run("qemu-img", "info", "-U", "--backing-chain", "--output=json", "new.qcow2")
        self.assertEqual([image.get("backing-filename") for image in json.loads(info.stdout)],
                         ["top.qcow2", "mid.qcow2", "base.qcow2", None])
        client.execute("job-cancel", id="j")


class Compressed(Bed):
    def test_a_filter_goes_by_the_clusters_of_the_image_that_is_below_it(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "small.qcow2", "1M")
        self.serve("small.qcow2=small")
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("blockdev-add", driver="compress", file="small", **{"node-name": "c"})
            qmp.execute("block-export-add", type="nbd", id="c", writable=True, **{"node-name": "c"})
            disk, wanted = self.disk("c"), bytearray(MiB)
            for turn, cluster in enumerate((4, 256, 64)):
                if turn:
                    self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}k", f"{cluster}.qcow2", "1M")
                    qmp.execute("blockdev-add", driver="qcow2", backing=None, file={"driver": "file", "filename": f"{cluster}.qcow2"},
                                **{"node-name": f"over{cluster}"})
                    qmp.execute("blockdev-snapshot", node="small" if turn == 1 else "over256", overlay=f"over{cluster}")
                for at in (4 * KiB, 68 * KiB, 700 * KiB):
                    at += turn * 8 * KiB
                    disk.pwrite(bytes([turn + 1]) * 4 * KiB, at)
                    wanted[at:at + 4 * KiB] = bytes([turn + 1]) * 4 * KiB
            # Not by the filter of a job, which comes between.
            qmp.execute("block-stream", device="over64", speed=1, **{"job-id": "j"})
            disk.pwrite(b"j" * 4 * KiB, 300 * KiB)
            wanted[300 * KiB:304 * KiB] = b"j" * 4 * KiB
            # One that cannot compress has it as it is.
            self.raw("target.raw", MiB)
            qmp.execute("blockdev-add", driver="raw", file={"driver": "file", "filename": "target.raw"}, **{"node-name": "target"})
            qmp.execute("job-cancel", id="j")
            qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
            qmp.execute("blockdev-backup", device="over64", target="target", sync="none", **{"job-id": "b"})
            disk.pwrite(b"b" * 4 * KiB, 500 * KiB)
            wanted[500 * KiB:504 * KiB] = b"b" * 4 * KiB
            disk.shutdown()
            self.assertIsNone(first_difference(self.content("c"), bytes(wanted)))

    def test_a_raw_disk_on_it_that_ends_within_a_cluster(self):
        size = MiB + 4 * KiB
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "odd.qcow2", str(size))
        self.serve("odd.qcow2=odd")
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("blockdev-add", driver="compress", file="odd", **{"node-name": "c"})
            qmp.execute("blockdev-add", driver="raw", file="c", **{"node-name": "r"})
            qmp.execute("block-export-add", type="nbd", id="r", writable=True, **{"node-name": "r"})
            disk = self.disk("r")
            disk.pwrite(b"e" * 4 * KiB, MiB)
            self.assertEqual(disk.pread(4 * KiB, MiB), b"e" * 4 * KiB)
            disk.shutdown()
            self.assertIsNone(first_difference(self.content("r"), bytes(MiB) + b"e" * 4 * KiB))


class Guide(Bed):
    def test_its_commands(self):
        self.run_guide("chains.md", end="## Mirror")


if __name__ == "__main__":
    unittest.main()
