"""Checkpoints and bitmaps that follow their disk: whatever becomes of its layers and of the daemon (kill -9 too), a backup since
any point, put on top of what the disk held then, is what it holds now."""
import contextlib
import json
import os
import random
import threading
import unittest

import nbd
from bed import KiB, MiB, Bed, first_difference, processes
from lab.qmp import QmpError

DISK = 4 * MiB


class Machine:
    """A daemon with one disk, and the model: what the disk held at each of its points."""

    def __init__(self, bed, seed, kind="qcow2"):
        self.bed, self.rng, self.kind = bed, random.Random(seed), kind
        self.files, self.layer, self.targets = ["layer0.qcow2" if kind == "qcow2" else "layer0.raw"], 0, 0
        self.points, self.order, self.bitmaps = {}, [], {}
        if kind == "qcow2":
            bed.lab.run("qemu-img", "create", "-q", "-f", "qcow2", self.files[0], str(DISK))
        else:
            with open(bed.path / self.files[0], "wb") as file:
                file.truncate(DISK)
        self.start()

    # The daemon

    def start(self):
        self.node = self.opened = f"n{self.layer}"
        driver = "qcow2" if self.files[-1].endswith("qcow2") else "raw"
        self.daemon = self.bed.lab.start(
            self.bed.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "chardev=c",
            "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
            "--blockdev", f"driver={driver},node-name={self.node},file.driver=file,file.filename={self.files[-1]}",
            "--export", f"nbd,id=disk,node-name={self.node},name=disk,writable=on")
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.bed.path / name, self.daemon)
        self.client, self.disk = self.bed.qmp(), self.bed.disk()
        self.content = self.read()

    def read(self):
        size = self.disk.get_size()
        return bytearray(b"".join(self.disk.pread(min(MiB, size - at), at) for at in range(0, size, MiB)))

    def end(self, kill):
        if kill:
            self.daemon.kill()
        else:
            self.disk.shutdown()
            self.client.execute("quit")
        self.daemon.wait(30)
        self.bed.lab.ended(self.daemon)
        for name in ("qmp.sock", "nbd.sock"):
            (self.bed.path / name).unlink(missing_ok=True)

    def restart(self):
        """After a kill the disk may hold less than it was told, where that was not flushed."""
        flushed = self.rng.randrange(2)
        if flushed:
            self.disk.flush()
        before, killed = bytes(self.content), self.rng.randrange(2)
        self.end(killed)
        self.start()
        if flushed or not killed:
            self.bed.assertIsNone(first_difference(bytes(self.content), before))

    def job(self, command, **arguments):
        self.client.events.clear()
        self.client.execute(command, **{"job-id": "j", **{key.replace("_", "-"): value for key, value in arguments.items()}})
        self.client.wait_event("JOB_STATUS_CHANGE", id="j", status="null")

    # What happens to the disk

    def write(self):
        for _ in range(self.rng.randrange(1, 6)):
            at = self.rng.randrange(len(self.content) // 512) * 512
            length = min(512 * self.rng.randrange(1, 200), len(self.content) - at)
            if self.rng.randrange(4):
                data = self.rng.randbytes(length)
                self.disk.pwrite(data, at)
            else:
                data = bytes(length)
                self.disk.zero(length, at)
            self.content[at:at + length] = data

    def create(self):
        name = f"c{len(self.points)}-{self.rng.randrange(10**6)}"
        self.client.execute("checkpoint-create", name=name, disks=[self.node])
        self.points[name] = bytes(self.content)
        self.order.append(name)

    def delete(self):
        if self.order:
            name = self.rng.choice(self.order)
            self.client.execute("checkpoint-delete", name=name)
            self.order.remove(name)

    def add_bitmap(self):
        name = f"b{len(self.points)}-{self.rng.randrange(10**6)}"
        self.client.execute("block-dirty-bitmap-add", node=self.node, name=name, persistent=True, **{"follows-disk": True})
        self.points[name] = self.bitmaps[name] = bytes(self.content)

    def clear_bitmap(self):
        if self.bitmaps:
            name = self.rng.choice(sorted(self.bitmaps))
            self.client.execute("block-dirty-bitmap-clear", node=self.node, name=name)
            self.points[name] = self.bitmaps[name] = bytes(self.content)

    def snapshot(self):
        if len(self.files) > 4:
            return
        self.layer += 1
        above = {"node-name": self.node, "snapshot-file": f"layer{self.layer}.qcow2", "snapshot-node-name": f"n{self.layer}"}
        taken = self.rng.randrange(3)
        if taken:
            name = f"s{self.layer}"
            actions = [{"type": "checkpoint-create", "data": {"name": name, "disks": [self.node]}},
                       {"type": "blockdev-snapshot-sync", "data": above}]
            self.client.execute("transaction", actions=actions)
            self.points[name] = bytes(self.content)
            self.order.append(name)
        else:
            self.client.execute("blockdev-snapshot-sync", **above)
        self.files.append(above["snapshot-file"])
        self.node = f"n{self.layer}"

    def commit(self):
        if len(self.files) > 2:
            top = self.rng.randrange(1, len(self.files) - 1)
            base = self.rng.randrange(top)
            self.job("block-commit", device=self.node, top=self.files[top], base=self.files[base])
            del self.files[base + 1:top + 1]

    def stream(self):
        if len(self.files) > 1:
            base = self.rng.randrange(-1, len(self.files) - 1)
            self.job("block-stream", device=self.node, **({"base": self.files[base]} if base >= 0 else {}))
            del self.files[base + 1:-1]

    def resize(self):
        """Shorter, or longer: with zeroes, whatever has been there before."""
        if self.node != self.opened:             # an overlay goes with its export
            self.end(kill=False)
            self.start()
        size = self.rng.randrange(6, 12) * MiB // 2
        self.client.events.clear()
        self.disk.shutdown()
        self.client.execute("block-export-del", id="disk", mode="hard")
        self.client.wait_event("BLOCK_EXPORT_DELETED", id="disk")
        self.client.execute("block_resize", size=size, **{"node-name": self.node})
        self.client.execute("block-export-add", type="nbd", id="disk", name="disk", writable=True, **{"node-name": self.node})
        self.disk = self.bed.disk()
        self.content = self.content[:size] + bytes(max(0, size - len(self.content)))

    def mirror(self):
        """To another image, without a chain."""
        self.layer += 1
        name = f"layer{self.layer}.qcow2"
        self.bed.lab.run("qemu-img", "create", "-q", "-f", "qcow2", name, str(len(self.content)))
        self.client.execute("blockdev-add", driver="qcow2", **{"node-name": f"n{self.layer}"}, file={"driver": "file", "filename": name})
        self.client.events.clear()
        self.client.execute("blockdev-mirror", device=self.node, target=f"n{self.layer}", sync="full", **{"job-id": "j"})
        self.client.wait_event("BLOCK_JOB_READY", device="j")
        self.write()
        self.client.execute("job-complete", id="j")
        self.client.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
        self.files, self.node = [name], f"n{self.layer}"

    # What has to hold

    def check_since(self, name, at):
        """The disk as it was, and what a backup says has changed since, are the disk as it is."""
        self.targets += 1
        target = f"target{self.targets}"
        (self.bed.path / target).write_bytes(at[:len(self.content)].ljust(len(self.content), b"\0"))
        self.client.execute("blockdev-add", driver="raw", **{"node-name": target}, file={"driver": "file", "filename": target})
        which = {"bitmap": name, "bitmap-mode": "never"} if name in self.bitmaps else {"since": name}
        self.job("blockdev-backup", device=self.node, target=target, sync="bitmap", **which)
        self.client.execute("blockdev-del", **{"node-name": target})
        difference = first_difference((self.bed.path / target).read_bytes(), bytes(self.content))
        self.bed.assertIsNone(difference, f"since {name}, on {self.files}")
        (self.bed.path / target).unlink()

    def check(self):
        shown = self.client.execute("query-checkpoints")
        self.bed.assertEqual([one["name"] for one in shown], self.order)
        self.bed.assertEqual({disk["node"] for one in shown for disk in one["disks"]}, {self.node} if self.order else set())
        self.bed.assertEqual([disk["recording"] for one in shown for disk in one["disks"]], [False] * (len(self.order) - 1) + [True] * bool(self.order))
        self.bed.assertIsNone(first_difference(bytes(self.read()), bytes(self.content)))
        for name in self.order + sorted(self.bitmaps):
            self.check_since(name, self.points[name])


class Checkpoints(Bed):
    def machine(self, seed, kind="qcow2"):
        last = getattr(self, "last", None)
        if last and last.daemon.poll() is None:          # a test before this one has failed
            last.end(kill=True)
        for stale in self.path.glob("layer*"):
            stale.unlink()
        self.last = Machine(self, seed, kind)
        return self.last

    def run_random(self, seeds, steps, kind="qcow2"):
        for seed in seeds:
            with self.subTest(seed=seed):
                machine = self.machine(seed, kind)
                kinds = [machine.write] * 4 + [machine.create, machine.snapshot] * 3 + \
                        [machine.delete, machine.add_bitmap, machine.clear_bitmap, machine.commit, machine.stream, machine.resize] + [machine.restart] * 2
                for _ in range(steps):
                    machine.rng.choice(kinds)()
                    if not machine.rng.randrange(4):
                        machine.check()
                machine.check()
                machine.end(kill=False)

    def test_a_random_life_in_qcow2(self):
        self.run_random(range(6), 30)

    def test_a_random_life_on_a_raw_image(self):
        self.run_random(range(100, 103), 20, "raw")

    def test_killed_at_any_moment(self):
        """What was acknowledged is there, and as good as it was; what was not is there or not."""
        for seed in range(300, 308):
            with self.subTest(seed=seed):
                machine = self.machine(seed, "qcow2" if seed % 3 else "raw")
                for _ in range(4):
                    for _ in range(machine.rng.randrange(4)):
                        machine.rng.choice([machine.write, machine.create, machine.snapshot])()
                    self.killed(machine)
                machine.check()
                machine.end(kill=False)

    def killed(self, machine):
        """A kill comes with one of these under way, or between them."""
        operation = machine.rng.choice([machine.create, machine.create, machine.snapshot, machine.delete, machine.commit, machine.write])
        order, files, points = list(machine.order), list(machine.files), dict(machine.points)
        killer = threading.Timer(machine.rng.random() * 0.05, machine.daemon.kill)
        killer.start()
        acknowledged = False
        with contextlib.suppress(OSError, nbd.Error, ValueError):
            operation()
            acknowledged = True
        killer.join()
        machine.daemon.wait(20)
        self.lab.ended(machine.daemon)
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)
        before = bytes(machine.content)
        if not acknowledged:
            machine.files, machine.order, machine.points = files, order, points
            machine.files = self.chain(files[-1])
        machine.start()
        shown = [one["name"] for one in machine.client.execute("query-checkpoints")]
        if acknowledged:
            return self.assertEqual(shown, machine.order)
        # One that was being deleted, or taken, is or is not.
        new = [name for name in shown if name not in order]
        self.assertLessEqual(len(new), 1)
        self.assertLessEqual(len(set(order) - set(shown)), 1 if operation == machine.delete else 0)
        machine.order = shown
        machine.points.update((name, before) for name in new)

    def chain(self, top):
        """The files of a chain, the lowest first, as their headers say it."""
        if top.endswith(".raw"):
            return [top]
        info = json.loads(self.lab.run("qemu-img", "info", "--output=json", top).stdout)
        below = info.get("backing-filename")
        return (self.chain(os.path.basename(below)) if below else []) + [top]

    def test_mirrors_take_them_along(self):
        machine = self.machine(7)
        for _ in range(3):
            machine.write()
            machine.create()
            machine.add_bitmap()
            machine.write()
            machine.mirror()
            machine.write()
            machine.check()
            machine.restart()
            machine.check()
        machine.end(kill=False)

    def test_what_is_deleted_above_a_snapshot_is_gone_after_the_commit(self):
        machine = self.machine(8)
        for _ in range(2):
            machine.write()
            machine.create()
        machine.snapshot()
        machine.write()
        machine.delete()
        machine.snapshot()
        machine.job("block-commit", device=machine.node, top=machine.files[1], base=machine.files[0])
        del machine.files[1]
        machine.check()
        shown = {b["name"] for node in machine.client.execute("query-named-block-nodes") for b in node.get("dirty-bitmaps", ())}
        self.assertEqual(len(shown), len(machine.order))
        machine.end(kill=False)

    def test_of_two_that_record_the_newer_goes_on(self):
        """A crash while one is taken may leave the one before it recording."""
        machine = self.machine(11)
        for _ in range(3):
            machine.create()
            machine.write()
        older = machine.client.execute("query-checkpoints")[1]["disks"][0]["bitmap"]
        machine.end(kill=False)
        self.lab.run("qemu-img", "bitmap", "--enable", machine.files[0], older)
        for kill in (True, False):
            machine.start()
            machine.check()
            machine.write()
            machine.disk.flush()
            machine.check()
            machine.end(kill)

    def test_every_disk_has_its_own_history(self):
        machine = self.machine(9)
        for name in ("other", "late"):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", str(DISK))
        def add(name):
            machine.client.execute("blockdev-add", driver="qcow2", **{"node-name": name}, file={"driver": "file", "filename": f"{name}.qcow2"})
        def disks():
            return {one["name"]: sorted(disk["node"] for disk in one["disks"]) for one in machine.client.execute("query-checkpoints")}
        add("other")
        machine.client.execute("checkpoint-create", name="a", disks=["n0", "other"])
        add("late")
        machine.client.execute("checkpoint-create", name="b", disks=["n0", "other", "late"])
        machine.client.execute("checkpoint-create", name="c", disks=["late"])
        self.assertEqual(disks(), {"a": ["n0", "other"], "b": ["late", "n0", "other"], "c": ["late"]})
        shown = {one["name"]: one for one in machine.client.execute("query-checkpoints")}
        self.assertEqual({d["node"]: d.get("parent") for d in shown["b"]["disks"]}, {"n0": "a", "other": "a", "late": None})
        self.assertEqual([d["recording"] for d in shown["b"]["disks"] if d["node"] == "late"], [False])
        # One that cannot be for one disk is for none, and the others record as they did.
        before = machine.client.execute("query-checkpoints")
        with self.assertRaisesRegex(QmpError, "Checkpoint 'a' of node 'other' already exists"):
            machine.client.execute("checkpoint-create", name="a", disks=["late", "other"])
        with self.assertRaisesRegex(QmpError, "Cannot find device='none'"):
            machine.client.execute("checkpoint-create", name="d", disks=["n0", "none"])
        self.assertEqual(machine.client.execute("query-checkpoints"), before)
        machine.client.execute("checkpoint-delete", name="b", disks=["n0"])
        self.assertEqual(disks(), {"a": ["n0", "other"], "b": ["late", "other"], "c": ["late"]})
        machine.client.execute("blockdev-del", **{"node-name": "other"})
        self.assertEqual(disks(), {"a": ["n0"], "b": ["late"], "c": ["late"]})
        add("other")
        self.assertEqual(disks(), {"a": ["n0", "other"], "b": ["late", "other"], "c": ["late"]})
        machine.client.execute("checkpoint-delete", name="b")
        self.assertEqual(disks(), {"a": ["n0", "other"], "c": ["late"]})
        machine.end(kill=False)

    def test_what_is_refused(self):
        machine = self.machine(10)
        def refused(message, command, **arguments):
            with self.assertRaisesRegex(QmpError, message):
                machine.client.execute(command, **{key.replace("_", "-"): value for key, value in arguments.items()})
        refused("a checkpoint needs a disk", "checkpoint-create", name="a", disks=[])
        refused("name cannot be empty", "checkpoint-create", name="", disks=["n0"])
        refused("Checkpoint 'a' not found", "checkpoint-delete", name="a")
        machine.client.execute("checkpoint-create", name="a", disks=["n0"])
        name = machine.client.execute("query-checkpoints")[0]["disks"][0]["bitmap"]
        for command in ("remove", "clear", "enable", "disable"):
            refused("is a checkpoint's and cannot be modified by itself", f"block-dirty-bitmap-{command}", node="n0", name=name)
        refused("Bitmap name is a checkpoint's", "block-dirty-bitmap-add", node="n0", name="checkpoint:1:x")
        machine.client.execute("blockdev-add", driver="null-co", size=DISK, **{"node-name": "t"})
        refused("Checkpoint 'none' not found on node 'n0'", "blockdev-backup", job_id="j", device="n0", target="t", sync="incremental", since="none")
        refused("'since' needs sync mode", "blockdev-backup", job_id="j", device="n0", target="t", sync="full", since="a")
        refused("'since' and 'bitmap' cannot", "blockdev-backup", job_id="j", device="n0", target="t", sync="bitmap", since="a", bitmap=name)
        refused("cannot be modified by itself", "blockdev-backup", job_id="j", device="n0", target="t", sync="incremental", bitmap=name)
        refused("cannot be persistent", "checkpoint-create", name="b", disks=["n0", "t"])
        refused("has to be persistent: the one before it, 'a', is", "checkpoint-create", name="b", disks=["n0", "t"], persistent=False)
        self.assertEqual(len(machine.client.execute("query-checkpoints")), 1)
        machine.client.execute("checkpoint-create", name="b", disks=["t"], persistent=False)
        machine.end(kill=False)

    def test_after_the_latest_time_that_there_is_there_is_no_other(self):
        """An image made elsewhere may say so; the one that follows could not be told for a checkpoint's."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "far.qcow2", "8M")
        self.lab.run("qemu-img", "bitmap", "--add", "far.qcow2", f"checkpoint:{1 << 62}:x")
        machine = self.machine(10)
        machine.client.execute("blockdev-add", driver="qcow2", file={"driver": "file", "filename": "far.qcow2"}, **{"node-name": "far"})
        with self.assertRaisesRegex(QmpError, "Checkpoint 'c' cannot be taken"):
            machine.client.execute("checkpoint-create", name="c", disks=["n0", "far"])
        self.assertEqual([found["name"] for found in machine.client.execute("query-checkpoints")], ["x"])
        bitmaps = next(node for node in machine.client.execute("query-named-block-nodes") if node["node-name"] == "far")["dirty-bitmaps"]
        self.assertEqual([bitmap["recording"] for bitmap in bitmaps], [True])
        machine.client.execute("checkpoint-create", name="c", disks=["n0"])
        machine.end(kill=False)

    def test_they_go_along_when_the_image_below_a_filter_is_mirrored(self):
        machine = self.machine(13)
        execute = machine.client.execute
        execute("block-export-del", id="disk", mode="hard")
        machine.client.wait_event("BLOCK_EXPORT_DELETED", id="disk")
        execute("checkpoint-create", name="a", disks=["n0"])
        execute("object-add", **{"qom-type": "throttle-group", "id": "g"})
        execute("blockdev-add", driver="throttle", file="n0", **{"node-name": "limited", "throttle-group": "g"})
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "layer-t.qcow2", str(DISK))
        execute("blockdev-add", driver="qcow2", file={"driver": "file", "filename": "layer-t.qcow2"}, **{"node-name": "t"})
        execute("blockdev-mirror", device="limited", target="t", sync="full", replaces="n0", **{"job-id": "j"})
        machine.client.wait_event("BLOCK_JOB_READY", device="j")
        execute("job-complete", id="j")
        machine.client.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
        self.assertEqual([(one["name"], [disk["node"] for disk in one["disks"]]) for one in execute("query-checkpoints")], [("a", ["t"])])
        machine.end(kill=True)

    def test_nothing_written_is_forgotten_with_one_that_is_not_persistent(self):
        machine = self.machine(12)
        create = machine.client.execute
        create("checkpoint-create", name="gone", disks=["n0"], persistent=False)
        create("checkpoint-create", name="kept", disks=["n0"])
        with self.assertRaisesRegex(QmpError, "has to be persistent"):
            create("checkpoint-create", name="late", disks=["n0"], persistent=False)
        machine.write()
        written = create("query-checkpoints")[-1]["disks"][0]["since"]
        self.assertGreater(written, 0)
        machine.end(kill=False)
        machine.start()
        found = machine.client.execute("query-checkpoints")
        self.assertEqual([one["name"] for one in found], ["kept"])
        self.assertEqual(found[0]["disks"][0]["since"], written)
        self.assertTrue(found[0]["disks"][0]["recording"])
        machine.end(kill=False)

    def test_one_that_is_inconsistent_is_repaired_by_deleting_it(self):
        machine = self.machine(11)
        for _ in range(2):
            machine.write()
            machine.create()
        machine.write()
        machine.end(kill=True)
        self.lab.run("qemu-io", "-c", "write -q -P 77 1M 64k", "layer0.qcow2")        # another program: nobody knows what it did
        machine.start()
        self.assertTrue(all("since" not in disk for one in machine.client.execute("query-checkpoints") for disk in one["disks"]))
        with self.assertRaisesRegex(QmpError, "is inconsistent"):
            machine.check_since(machine.order[0], machine.points[machine.order[0]])
        for name in machine.order:
            machine.client.execute("checkpoint-delete", name=name)
        machine.order = []
        machine.create()
        machine.write()
        machine.check()
        machine.end(kill=False)

    def test_a_bitmap_of_a_layer_below(self):
        """What it does not know of was written to the layers above it."""
        machine = self.machine(12)
        machine.write()
        machine.client.execute("block-dirty-bitmap-add", node="n0", name="stays", granularity=64 * KiB)
        at = bytes(machine.content)
        machine.write()
        machine.snapshot()
        machine.write()
        machine.client.execute("blockdev-snapshot-sync", **{"node-name": machine.node, "snapshot-file": "layer8.qcow2", "snapshot-node-name": "n8"})
        machine.files.append("layer8.qcow2")
        machine.node = "n8"
        machine.write()
        target = self.path / "target"
        target.write_bytes(at)
        machine.client.execute("blockdev-add", driver="raw", **{"node-name": "t"}, file={"driver": "file", "filename": "target"})
        which = {"bitmap": "stays", "bitmap-node": "n0", "bitmap-mode": "never"}
        for message, arguments in (("is not in the backing chain of 'n8'", {**which, "bitmap-node": "t"}),
                                   ("makes no sense without 'bitmap'", {"bitmap-node": "n0"}),
                                   ("Bitmap 'none' could not be found", {**which, "bitmap": "none"})):
            with self.assertRaisesRegex(QmpError, message):
                machine.client.execute("blockdev-backup", device="n8", target="t", sync="bitmap", **{"job-id": "j"}, **arguments)
        machine.client.execute("blockdev-backup", device="n8", target="t", sync="bitmap", **{"job-id": "j", "auto-finalize": False}, **which)
        with self.assertRaisesRegex(QmpError, "is busy|in use|Need a root block node"):
            machine.client.execute("block-commit", device="n8", top=machine.files[1], base=machine.files[0], **{"job-id": "c"})
        machine.client.wait_event("JOB_STATUS_CHANGE", id="j", status="pending")
        now = bytes(machine.content)
        machine.write()
        machine.client.execute("job-finalize", id="j")
        machine.client.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
        machine.client.execute("blockdev-del", **{"node-name": "t"})
        self.assertIsNone(first_difference(target.read_bytes(), now))
        machine.end(kill=False)

    def test_an_export_keeps_the_node_of_a_bitmap_that_it_shows(self):
        machine = self.machine(13)
        machine.client.execute("blockdev-add", driver="memory", size=DISK, **{"node-name": "other"})
        machine.client.execute("block-dirty-bitmap-add", node="other", name="b", disabled=True)
        machine.client.execute("block-export-add", type="nbd", id="e", name="e", bitmaps=[{"node": "other", "name": "b"}], **{"node-name": "n0"})
        with self.assertRaisesRegex(QmpError, "Node other is in use: its bitmap 'b' is"):
            machine.client.execute("blockdev-del", **{"node-name": "other"})
        handle, extents = nbd.NBD(), []
        handle.add_meta_context("qemu:dirty-bitmap:b")
        handle.connect_uri(f"nbd+unix:///e?socket={self.path / 'nbd.sock'}")
        handle.block_status(DISK, 0, lambda context, offset, entries, error: extents.extend(entries) and 0 or 0)
        self.assertEqual(extents, [DISK, 0])
        handle.shutdown()
        machine.client.execute("block-export-del", id="e", mode="hard")
        machine.client.wait_event("BLOCK_EXPORT_DELETED", id="e")
        machine.client.execute("blockdev-del", **{"node-name": "other"})
        machine.end(kill=False)

    def test_a_group_takes_effect_or_is_undone(self):
        """Bitmaps and checkpoints with jobs: all of it, or nothing; after a kill nothing; and no mark is ever lost."""
        for seed in range(8):
            with self.subTest(seed=seed):
                self.group(seed)

    def group(self, seed):
        machine, rng = self.machine(200 + seed), random.Random(seed)
        machine.write()
        machine.create()
        for name in ("cleared", "removed", "disabled", "merged"):
            machine.client.execute("block-dirty-bitmap-add", node="n0", name=name, persistent=rng.randrange(2) == 0, granularity=64 * KiB)
            machine.points[name] = bytes(machine.content)
        machine.client.execute("block-dirty-bitmap-add", node="n0", name="off", persistent=True, disabled=True)
        machine.write()
        persistent = {b["name"] for b in self.bitmaps(machine) if b["persistent"]}
        before = {b["name"]: b["count"] for b in self.bitmaps(machine)}
        ending = ["well", "cancelled", "cancelled", "killed"][seed % 4]
        (self.path / "full").write_bytes(bytes(len(machine.content)))
        target = {"driver": "raw", "node-name": "t", "file": {"driver": "file", "filename": "full"}}
        machine.client.execute("blockdev-add", **target)
        on = lambda kind, name, **more: {"type": f"block-dirty-bitmap-{kind}", "data": {"node": "n0", "name": name, **more}}
        actions = [on("clear", "cleared"), on("remove", "removed"), on("disable", "disabled"), on("enable", "off"), on("add", "new"),
                   {"type": "block-dirty-bitmap-merge", "data": {"node": "n0", "target": "merged", "bitmaps": ["disabled"]}},
                   {"type": "checkpoint-create", "data": {"name": "grouped", "disks": ["n0"]}},
                   {"type": "blockdev-backup", "data": {"device": "n0", "target": "t", "sync": "full", "job-id": "j", "auto-finalize": False,
                                                        "speed": 0 if ending == "well" else 65536}}]
        group = {"completion-mode": "grouped"}
        with self.assertRaises(QmpError):
            machine.client.execute("transaction", actions=[*actions, {"type": "abort", "data": {}}], properties=group)
        self.assertEqual({b["name"]: b["count"] for b in self.bitmaps(machine)}, before)
        at = bytes(machine.content)
        machine.client.events.clear()                    # those of the job that did not come to be
        machine.client.execute("transaction", actions=actions, properties=group)
        for command in ("clear", "remove", "enable"):
            with self.assertRaisesRegex(QmpError, "in use"):
                machine.client.execute(f"block-dirty-bitmap-{command}", node="n0", name="cleared")
        with self.assertRaisesRegex(QmpError, "in use|part of a transaction"):
            machine.client.execute("checkpoint-create", name="other", disks=["n0"])
        machine.write()
        if ending == "well":
            machine.client.wait_event("JOB_STATUS_CHANGE", id="j", status="pending")
            machine.client.execute("job-finalize", id="j")
            machine.client.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
        elif ending == "killed":
            machine.disk.flush()
            content = bytes(machine.content)
            machine.end(kill=True)
            machine.start()
            self.assertEqual(bytes(machine.content), content)
        else:
            machine.client.execute("job-cancel", id="j")
            machine.client.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
        if ending != "killed":
            machine.client.execute("blockdev-del", **{"node-name": "t"})
        if seed % 3 == 0:
            machine.write()
        if seed % 2 == 0:
            machine.end(kill=False)
            machine.start()
        names = {b["name"] for b in self.bitmaps(machine)}
        here = names if ending != "killed" and seed % 2 else names & persistent
        recording = {b["name"]: b["recording"] for b in self.bitmaps(machine)}
        checkpoints = [one["name"] for one in machine.client.execute("query-checkpoints")]
        if ending == "well":
            self.assertNotIn("removed", names)
            self.assertEqual(checkpoints, machine.order + ["grouped"])
            machine.points.update(cleared=at, grouped=at)
            machine.check_since("grouped", at)
            if "disabled" in here:
                self.assertFalse(recording["disabled"])
        else:
            if ending != "killed":
                self.assertEqual(checkpoints, machine.order)
                self.assertNotIn("new", names)
            if "removed" in persistent:
                self.assertIn("removed", names)
        machine.check_since(machine.order[0], machine.points[machine.order[0]])
        machine.bitmaps = machine.points
        for name in {"cleared", "removed", "disabled", "merged"} & here - ({"disabled"} if ending == "well" else set()):
            self.assertTrue(recording[name], name)
            machine.check_since(name, machine.points[name])
        machine.end(kill=False)

    def bitmaps(self, machine):
        nodes = machine.client.execute("query-named-block-nodes")
        return [b for node in nodes if node["node-name"] == machine.node for b in node.get("dirty-bitmaps", ())]


class Guide(Bed):
    def test_as_it_is_written(self):
        self.run_guide("bitmaps.md")
        # Each of the images holds what the text says that it does.
        for image, pattern, at in (("since-thursday.qcow2", 4, "2M"), ("since-thursday.qcow2", 1, "0"), ("full.qcow2", 3, "8M"),
                                   ("since-mine.qcow2", 7, "5M"), ("since-mine.qcow2", 8, "6M"), ("since-mine.qcow2", 0, "1M")):
            done = self.lab.run("qemu-io", "-c", f"read -P {pattern} {at} 64k", image)
            self.assertNotIn("failed", done.stdout, image)
        points = self.json("list", "backups")["points"]
        self.assertEqual([point["base"] for point in points], [None, points[0]["id"], points[0]["id"]])


if __name__ == "__main__":
    unittest.main()
