"""Commits that preserve what reads from their base, as qemu-img sees it afterwards: the images taken out of the chain, and others on the
base, read as they did, while guests write to these and to the disk, cancelled or killed (kill -9) in any phase."""
import fcntl
import json
import os
import random
import unittest

from bed import MiB, Bed, first_difference
from chains_guest import Writer
from lab.qmp import Qmp, QmpError

SIZES = {"base": 8, "a": 8, "b": 8, "disk": 8, "beside": 8, "below": 8, "above": 8}
BELOW = {"a": "base", "b": "a", "disk": "b", "beside": "base", "below": "base", "above": "below"}
EXPORTED = ("disk", "beside", "above")
REMOVED = ("a", "b")
KEPT = ("a", "b", "below")                       # nobody writes to them


class Preserve(Bed):
    def setUp(self):
        super().setUp()
        self.raw("served.raw", MiB)
        self.format, self.sizes = "qcow2", SIZES

    def make(self, seed, format="qcow2", compat="1.1", **sizes):
        self.format, self.sizes = format, SIZES | sizes
        rng = random.Random(seed)
        for name, size in self.sizes.items():
            kind = self.format_of(name)
            options = [] if kind == "raw" else ["-o", f"compat={compat}"]
            if name in BELOW:
                options += ["-b", self.file(BELOW[name]), "-F", self.format_of(BELOW[name])]
            self.lab.run("qemu-img", "create", "-q", "-f", kind, *options, self.file(name), f"{size}M")
            for _ in range(14):
                at, length = rng.randrange(size * 256 - 64) * 4096, 4096 * rng.randrange(1, 64)
                what = f"-P {rng.randrange(1, 256)}" if rng.randrange(4) else "-z"
                self.lab.run("qemu-io", "-f", kind, "-c", f"write {what} {at} {length}", self.file(name))
        return {name: self.on_disk(name) for name in self.sizes}

    def format_of(self, name):
        return self.format if name == "base" else "qcow2"

    def file(self, name):
        return f"{name}.{self.format_of(name)}"

    def on_disk(self, name):
        """What qemu-img reads there, with what the headers say is below it."""
        self.lab.run("qemu-img", "convert", "-U", "-f", self.format_of(name), "-O", "raw", self.file(name), "now.raw")
        return (self.path / "now.raw").read_bytes()

    def start(self, filtered=None, **filter):
        """`filtered` stands on the base through a filter."""
        for name in ("nbd.sock", "qmp.sock"):
            (self.path / name).unlink(missing_ok=True)
        self.serve("served.raw=served")
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("object-add", **{"qom-type": "throttle-group", "id": "g"})
            for name in self.sizes:
                below = self.backing_of(name)
                if name == filtered:
                    qmp.execute("blockdev-add", **{"node-name": "filter", "file": below}, **filter)
                    below = "filter"
                options = {"backing": below} if below else {}
                written = name in EXPORTED or (filtered and name == "base")
                qmp.execute("blockdev-add", driver=self.format_of(name), **{"node-name": name, "read-only": not written}, **options,
                            **{"auto-read-only": True} if name not in EXPORTED else {},
                            file={"driver": "file", "filename": self.file(name)})
            for name in EXPORTED:
                qmp.execute("block-export-add", type="nbd", id=f"x-{name}", **{"node-name": name}, name=name, writable=True)

    def backing_of(self, name):
        if name not in BELOW:
            return None
        done = self.lab.run("qemu-img", "info", "-U", "--output=json", self.file(name))
        below = json.loads(done.stdout).get("backing-filename")
        return below and os.path.basename(below).split(".")[0]

    def guests(self, before):
        writers = {name: Writer(f"nbd+unix:///{name}?socket={self.path / 'nbd.sock'}", before[name], i) for i, name in enumerate(EXPORTED)}
        for writer in writers.values():
            writer.start()
        return writers

    def commit(self, qmp, how, **arguments):
        qmp.execute("block-commit", device="disk", **{"job-id": "j", "top-node": "b", "base-node": "base", "preserve-removed": how}, **arguments)

    def end(self):
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("quit")
        self.assertEqual(self.daemon.wait(30), 0)

    def check(self, before, how, done=True, fresh=None):
        for name in self.sizes:
            if self.format_of(name) == "qcow2":
                checked = self.lab.run("qemu-img", "check", self.file(name), ok=None)
                self.assertIn(checked.returncode, (0, 3), name + checked.stdout + checked.stderr)
        for name in (*KEPT, *EXPORTED):
            self.assertIsNone(first_difference(self.on_disk(name), (fresh or before)[name]), name)
        if done:
            self.assertEqual(self.backing_of("disk"), "base")
            for name in ("a", "beside", "below"):
                self.assertEqual(self.backing_of(name), None if how == "full" else "base", name)

    SHAPES = {
        "all alike": {},
        "a raw base": {"format": "raw"},
        "a short base": {"base": 4},
        "a short raw base": {"format": "raw", "base": 4, "below": 10},
        "a long base and others": {"base": 12, "beside": 10, "disk": 10},
        "version 2": {"compat": "0.10"},
    }

    def test_guests_write_meanwhile(self):
        for number, (what, shape) in enumerate(self.SHAPES.items()):
            for how in ("on", "full") if number % 3 == 0 else ("on",):
                with self.subTest(what, how=how):
                    before = self.make(number, **shape)
                    self.start()
                    writers = self.guests(before)
                    with Qmp(self.path / "qmp.sock") as qmp:
                        self.commit(qmp, how)
                        qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="concluded")
                        qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
                    after = before | {name: writer.stop() for name, writer in writers.items()}
                    self.end()
                    self.check(before, how, fresh=after)

    def test_what_guests_write_to_is_committed(self):
        for number, base in enumerate(("base", "b")):                # the disk stands on it, or not
            with self.subTest(base):
                before = self.make(number + 70, base=6)
                self.start()
                writers = self.guests(before)
                with Qmp(self.path / "qmp.sock") as qmp:
                    qmp.execute("block-commit", device="disk", **{"job-id": "j", "base-node": base, "preserve-removed": "full"})
                    qmp.wait_event("BLOCK_JOB_READY", device="j")
                    after = before | {"disk": writers.pop("disk").stop()}
                    qmp.execute("job-complete", id="j")
                    qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
                    self.change(seed=number)                         # of the base by now
                    now = self.content()
                    after |= {name: writer.stop() for name, writer in writers.items()}
                self.end()
                if base == "b":
                    after["b"] = now
                self.check(before, "full", done=False, fresh=after)
                self.assertIsNone(first_difference(self.on_disk(base)[:len(now)], now))
                self.assertEqual(self.backing_of("disk"), "b" if base == "base" else "a")
                self.assertEqual(self.backing_of("a"), None if base == "base" else "base")

    def test_cancelled_and_killed_in_each_phase(self):
        for number, share in enumerate((0.1, 0.5, 0.9)):
            for how, end in (("on", "kill"), ("full", "kill")) if number != 1 else (("on", "cancel"), ("full", "cancel")):
                with self.subTest(share=share, how=how, end=end):
                    before = self.make(number + 50, below=9)
                    self.start()
                    with Qmp(self.path / "qmp.sock") as qmp:
                        self.commit(qmp, how, speed=6 * MiB)

                        def so_far():
                            job = next(iter(qmp.execute("query-jobs")), None)
                            return job is None or job["current-progress"] >= share * job["total-progress"]
                        self.until(so_far, "a share is done")
                        if end == "cancel":
                            qmp.execute("job-cancel", id="j")
                            qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
                    if end == "cancel":
                        self.end()
                    else:
                        self.daemon.kill()
                        self.daemon.wait(20)
                        self.lab.ended(self.daemon)
                    self.check(before, how, done=False)
                    self.start()
                    with Qmp(self.path / "qmp.sock") as qmp:
                        self.commit(qmp, how)
                        qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
                    self.end()
                    self.check(before, how)

    def test_a_filter_made_by_hand_above_the_base(self):
        old = {"driver": "null-co", "size": 8 * MiB, "read-zeroes": True}
        filters = {"copy-on-read": {}, "compress": {}, "throttle": {"throttle-group": "g"}, "copy-before-write": {"target": old}}
        for number, (driver, options) in enumerate(filters.items()):
            filtered, how = (("a", "on"), ("beside", "on"), ("beside", "full"), ("a", "full"))[number]
            with self.subTest(driver, filtered=filtered, how=how):
                before = self.make(number + 110)
                self.start(filtered, driver=driver, **options)
                writers = self.guests(before)
                with Qmp(self.path / "qmp.sock") as qmp:
                    self.commit(qmp, how)
                    qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
                after = before | {name: writer.stop() for name, writer in writers.items()}
                self.end()
                self.check(before, how, fresh=after)

    def test_what_it_is_refused_for(self):
        self.make(90)
        self.lab.run("qemu-img", "snapshot", "-c", "s", "beside.qcow2")
        self.start()
        with Qmp(self.path / "qmp.sock") as qmp:
            with self.assertRaisesRegex(QmpError, "Node 'beside' has internal snapshots"):
                self.commit(qmp, "on")
            qmp.execute("blockdev-snapshot-delete-internal-sync", device="beside", name="s")
            with self.assertRaisesRegex(QmpError, "guests write to 'top' and will write to the base: use 'full'"):
                qmp.execute("block-commit", device="disk", **{"base-node": "base", "preserve-removed": "on"})
            with self.assertRaisesRegex(QmpError, "'empty-active'"):
                qmp.execute("block-commit", device="disk", **{"base-node": "base", "preserve-removed": "full", "empty-active": True})
            # Nobody comes to stand on the base while it is at work.
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "late.qcow2", "8M")
            self.commit(qmp, "on", speed=MiB)
            late = {"driver": "qcow2", "node-name": "late", "file": {"driver": "file", "filename": "late.qcow2"}}
            with self.assertRaisesRegex(QmpError, "'write below overlays'"):
                qmp.execute("blockdev-add", **late, backing="base")
            with self.assertRaisesRegex(QmpError, "'beside' is in use"):
                qmp.execute("block_resize", **{"node-name": "beside", "size": 9 * MiB})
            qmp.execute("job-cancel", id="j")
            qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
            qmp.execute("blockdev-add", **late, backing="base")
        self.end()

    def test_one_that_cannot_be_written_is_named(self):
        before = self.make(91)
        self.start()
        with Qmp(self.path / "qmp.sock") as qmp:
            with open(self.path / "below.qcow2", "rb") as held:
                fcntl.lockf(held, fcntl.LOCK_SH, 1, 201)         # as a reader of QEMU's that lets nobody write
                with self.assertRaisesRegex(QmpError, "Node 'below', which stands on 'base', cannot be written to preserve it: .*lock"):
                    self.commit(qmp, "on")
            self.commit(qmp, "on")
            qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
        self.end()
        self.check(before, "on")


if __name__ == "__main__":
    unittest.main()
