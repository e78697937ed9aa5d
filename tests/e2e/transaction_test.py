"""Exports, mirrors and groups in transactions: clients find exports when all has taken effect, with what the disk held at that moment;
mirrors begin at that moment, all of them; nothing is left of what was undone; a group ends on all disks or on none, whenever the
daemon is killed."""
import random
import threading
import time
import unittest

import nbd
from bed import KiB, MiB, Bed
from lab.qmp import QmpError

DISK = 8 * MiB


def action(kind, **data):
    return {"type": kind, "data": {key.replace("_", "-"): value for key, value in data.items()}}


def export(name, node="disk", **more):
    return action("block-export-add", type="nbd", id=name, node_name=node, name=name, **more)


class Exports(Bed):
    def setUp(self):
        super().setUp()
        self.raw("disk.raw", DISK)
        self.serve("disk.raw=disk")
        self.monitor = self.qmp()

    def transaction(self, *actions, **properties):
        self.monitor.execute("transaction", actions=list(actions), **({"properties": properties} if properties else {}))

    def refused(self, *actions, **properties):
        with self.assertRaises(QmpError) as refused:
            self.transaction(*actions, **properties)
        return str(refused.exception)

    def exports(self):
        return sorted(entry["id"] for entry in self.monitor.execute("query-block-exports"))

    def assert_not_found(self, name):
        with self.assertRaises(nbd.Error):
            self.disk(name)

    def test_shows_the_disk_at_the_point_of_a_job_that_began_with_it(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "disk.raw", "fleece.qcow2")
        self.monitor.execute("blockdev-add", driver="qcow2", **{"node-name": "fleece", "backing": "disk"},
                             file={"driver": "file", "filename": "fleece.qcow2"})
        self.monitor.execute("block-dirty-bitmap-add", node="disk", name="since")
        writer = self.disk()
        writer.pwrite(b"\x5a" * (4 * KiB), 200 * KiB)
        before = self.content()
        self.transaction(action("blockdev-backup", job_id="keep", device="disk", target="fleece", sync="none"),
                         action("block-dirty-bitmap-disable", node="disk", name="since"),
                         export("point", "fleece"), export("changed", bitmaps=["since"]))
        for block in range(0, 64, 3):
            writer.pwrite(b"\xa5" * (4 * KiB), block * 4 * KiB)
        self.assertEqual(self.content("point"), before)
        self.assertNotEqual(self.content(), before)
        reader = nbd.NBD()
        reader.add_meta_context("qemu:dirty-bitmap:since")
        reader.connect_uri(f"nbd+unix:///changed?socket={self.path / 'nbd.sock'}")
        dirty = []
        reader.block_status(DISK, 0, lambda context, offset, entries, error: dirty.extend(entries))
        self.assertEqual(dirty, [192 * KiB, 0, 64 * KiB, 1, DISK - 256 * KiB, 0])
        reader.shutdown()

    def test_is_not_there_when_another_action_fails(self):
        self.assertIn("Abort", self.refused(export("one"), export("two"), action("abort")))
        self.assertEqual(self.exports(), ["disk"])
        for name in ("one", "two"):
            self.assert_not_found(name)
        self.transaction(export("one"), export("two"))
        self.assertEqual(self.exports(), ["disk", "one", "two"])
        self.assertEqual(self.content("two"), self.content())
        self.assertFalse([event for event in self.monitor.events if event["event"] == "BLOCK_EXPORT_DELETED"])

    def test_what_cannot_be_done_undoes_the_others(self):
        add = action("block-dirty-bitmap-add", node="disk", name="b", disabled=True)
        for bad, why in ((export("disk"), "Block export id 'disk' is already in use"),
                         (export("one", "nowhere"), "Cannot find device='' nor node-name='nowhere'"),
                         (export("one", bitmaps=["none"]), "Bitmap 'none' is not found"),
                         (action("block-export-add", type="nbd", id="other", node_name="disk", name="disk"),
                          "NBD server already has export named 'disk'")):
            self.assertIn(why, self.refused(add, bad))
        self.assertIn("Block export id 'one' is already in use", self.refused(add, export("one"), export("one")))
        self.assertEqual(self.exports(), ["disk"])
        self.transaction(add, export("one", bitmaps=["b"]))
        self.assertEqual(self.exports(), ["disk", "one"])

    def test_an_overlay_of_the_same_transaction_is_undone_with_its_export(self):
        self.raw("idle.raw", DISK)
        self.monitor.execute("blockdev-add", driver="raw", **{"node-name": "idle"}, file={"driver": "file", "filename": "idle.raw"})
        snapshot = {"type": "blockdev-snapshot-sync",
                    "data": {"node-name": "idle", "snapshot-node-name": "over", "snapshot-file": "over.qcow2"}}
        self.assertIn("Abort", self.refused(snapshot, export("one", "over"), action("abort")))
        self.assertEqual(self.exports(), ["disk"])
        self.assertFalse((self.path / "over.qcow2").exists())
        self.transaction(snapshot, export("one", "over"))
        self.assertEqual(self.content("one"), (self.path / "idle.raw").read_bytes())

    def test_a_file_that_was_empty_is_so_again_whatever_was_done_with_the_overlay(self):
        (self.path / "over.qcow2").touch()
        snapshot = action("blockdev-snapshot-sync", node_name="disk", snapshot_file="over.qcow2", snapshot_node_name="over")
        more = (action("block-dirty-bitmap-add", node="over", name="b", persistent=True),
                action("drive-backup", job_id="j", device="over", target="copy.qcow2", format="qcow2", sync="full"))
        for actions in (more[:1], more[1:], more):
            self.refused(snapshot, *actions, action("abort"))
            self.assertEqual((self.path / "over.qcow2").stat().st_size, 0)
            self.assertFalse((self.path / "copy.qcow2").exists())
        self.transaction(snapshot)

    def test_what_was_not_made_is_not_taken_back(self):
        """A link that leads nowhere was there before."""
        (self.path / "link").symlink_to("nowhere")
        with self.assertRaises(QmpError):
            self.monitor.execute("drive-mirror", device="disk", target="link", format="raw", sync="full", **{"job-id": "j"})
        for kind, data in (("drive-backup", {"device": "disk", "target": "link", "format": "raw", "sync": "full", "job-id": "j"}),
                           ("blockdev-snapshot-sync", {"node-name": "disk", "snapshot-file": "link", "snapshot-node-name": "over"})):
            self.refused({"type": kind, "data": data})
            self.assertTrue((self.path / "link").is_symlink())

    def test_has_no_job_to_be_grouped(self):
        why = self.refused(export("one"), **{"completion-mode": "grouped"})
        self.assertIn("'block-export-add' does not support transaction property completion-mode = grouped", why)
        self.assertEqual(self.exports(), ["disk"])

    def test_needs_a_server(self):
        self.monitor.execute("nbd-server-stop")
        self.assertIn("NBD server not running", self.refused(export("one")))


BLOCK, LONG_DISK = 64 * KiB, 32 * MiB


class Mirrors(Bed):
    def setUp(self):
        super().setUp()
        for name in "abc":
            (self.path / f"{name}.raw").write_bytes(bytes(LONG_DISK))
        self.serve("a.raw=a", "b.raw=b", "c.raw=c")
        self.monitor = self.qmp()
        for name in "abc":
            self.raw(f"t{name}.raw", LONG_DISK)
            self.monitor.execute("blockdev-add", driver="raw", **{"node-name": f"t{name}"},
                                 file={"driver": "file", "filename": f"t{name}.raw"})

    def transaction(self, *actions, **properties):
        self.monitor.execute("transaction", actions=list(actions), **({"properties": properties} if properties else {}))

    def refused(self, *actions, **properties):
        with self.assertRaises(QmpError) as refused:
            self.transaction(*actions, **properties)
        return str(refused.exception)

    def mirror(self, name, **options):
        return action("blockdev-mirror", **{"device": name, "target": f"t{name}", "job_id": f"m{name}", "sync": "full", **options})

    def nodes(self):
        return self.monitor.execute("query-named-block-nodes", flat=True)

    def bitmap(self, node, name):
        found = [entry for entry in self.nodes() if entry["node-name"] == node]
        return [entry for entry in found[0]["dirty-bitmaps"] if entry["name"] == name][0]

    def write_all(self, enough, written):
        """One block to a, then b, then c, then the next: what was written before a moment is a prefix."""
        disks = [self.disk(name) for name in "abc"]
        for block in range(LONG_DISK // BLOCK):
            for disk in disks:
                disk.pwrite(bytes([block % 255 + 1]) * BLOCK, block * BLOCK)
            time.sleep(0.005)
            written.append(block)
            if block > 20 and enough.is_set():
                return

    def test_begin_at_one_moment_with_backups_and_bitmaps(self):
        for name in "ab":
            (self.path / f"t{name}.raw").write_bytes(bytes(LONG_DISK))
        enough, written = threading.Event(), []
        writer = threading.Thread(target=self.write_all, args=(enough, written))
        writer.start()
        self.until(lambda: len(written) > 10, "writes")
        # Of `sync=none` a target has what was written since, of a backup what was written before.
        self.transaction(self.mirror("a", sync="none"), self.mirror("b", sync="none"),
                         action("blockdev-backup", device="c", target="tc", job_id="kept", sync="full"),
                         *(action("block-dirty-bitmap-add", node=name, name="since") for name in "abc"))
        self.until(lambda: written[-1] > 40, "writes")
        enough.set()
        writer.join()
        for name in "ab":
            self.monitor.wait_event("BLOCK_JOB_READY", device=f"m{name}")
            self.monitor.execute("block-job-cancel", device=f"m{name}")
            self.monitor.wait_event("BLOCK_JOB_COMPLETED", device=f"m{name}")
        self.until(lambda: not self.monitor.execute("query-jobs"), "the end of the backup")
        blocks = range(written[-1] + 1)
        has = {name: [self.path.joinpath(f"t{name}.raw").read_bytes()[block * BLOCK] != 0 for block in blocks] for name in "abc"}
        first = {"a": has["a"].index(True), "b": has["b"].index(True), "c": has["c"].index(False)}
        for name in "ab":
            self.assertTrue(all(has[name][first[name]:]))
        self.assertFalse(any(has["c"][first["c"]:]))
        self.assertTrue(first["c"] <= first["b"] <= first["a"] <= first["c"] + 1, first)
        for name in "abc":
            self.assertEqual(self.bitmap(name, "since")["count"], (len(blocks) - first[name]) * BLOCK)

    def test_copies_of_several_disks_end_with_the_disks_on_their_targets(self):
        self.transaction(self.mirror("a"), self.mirror("b"))
        for name in "ab":
            self.monitor.wait_event("BLOCK_JOB_READY", device=f"m{name}")
            self.change(name)
        for name in "ab":
            self.monitor.execute("job-complete", id=f"m{name}")
            self.monitor.wait_event("BLOCK_JOB_COMPLETED", device=f"m{name}")
        for name in "ab":
            self.monitor.execute("blockdev-del", **{"node-name": name})
            self.assertEqual(self.content(name), self.path.joinpath(f"t{name}.raw").read_bytes())

    def test_leave_nothing_when_another_action_fails(self):
        self.monitor.execute("block-dirty-bitmap-add", node="b", name="todo")
        self.change("b")
        before = self.nodes()
        begins = [self.mirror("a"), self.mirror("b", sync="bitmap", bitmap="todo", bitmap_mode="always"),
                  action("block-dirty-bitmap-add", node="a", name="new"), export("shown", "c")]
        for bad, why in ((action("abort"), "Abort"),
                         (self.mirror("c", target="none"), "nor node-name='none'"),
                         (self.mirror("c", target="ta"), "Node 'ta' is busy"),
                         (self.mirror("c", job_id="ma"), "Job ID 'ma' already in use"),
                         (action("block-dirty-bitmap-clear", node="b", name="todo"), "Bitmap 'todo' is currently in use")):
            self.assertIn(why, self.refused(*begins, bad))
            self.assertEqual(self.nodes(), before)
            self.assertEqual(self.monitor.execute("query-jobs"), [])
        self.raw("same.raw", LONG_DISK)
        for name in "ab":
            self.monitor.execute("blockdev-del", **{"node-name": f"t{name}"})
            self.assertEqual(self.path.joinpath(f"t{name}.raw").read_bytes(), self.path.joinpath("same.raw").read_bytes())
            self.change(name, seed=3)

    def test_end_each_for_itself(self):
        why = self.refused(self.mirror("a"), **{"completion-mode": "grouped"})
        self.assertIn("'blockdev-mirror' does not support transaction property completion-mode = grouped", why)
        self.assertEqual(self.monitor.execute("query-jobs"), [])


class Killed(Bed):
    def open(self):
        for name in ("nbd.sock", "qmp.sock"):
            (self.path / name).unlink(missing_ok=True)
        self.serve("a.raw=a", "b.qcow2=b")
        self.monitor = self.qmp()

    def kill(self):
        self.daemon.kill()
        self.daemon.wait(20)
        self.lab.ended(self.daemon)

    def bitmaps(self):
        nodes = self.monitor.execute("query-named-block-nodes", flat=True)
        return {entry["node-name"]: entry["dirty-bitmaps"] for entry in nodes if entry.get("dirty-bitmaps")}


class Undone(Killed):
    def test_what_was_durable_already_does_not_come_back_after_a_crash(self):
        self.raw("a.raw", DISK)
        self.qcow2("b.qcow2", DISK)
        (self.path / "target").write_bytes(b"lost when nothing else can fail any more")
        backups = [action("drive-backup", job_id=f"j{name}", device=name, target="target", format="raw", sync="full") for name in "ab"]
        for what in ([action("block-dirty-bitmap-add", node=name, name=bitmap, persistent=True) for bitmap in "xy" for name in "ab"],
                     [action("checkpoint-create", name="c", disks=["a", "b"])]):
            with self.subTest(what[0]["type"]):
                self.open()
                for name in "ab":
                    self.monitor.execute("block-dirty-bitmap-add", node=name, name="kept", persistent=True)
                with self.assertRaisesRegex(QmpError, "lock"):
                    self.monitor.execute("transaction", actions=what + backups)
                self.kill()
                self.open()
                self.assertEqual({name: [bitmap["name"] for bitmap in found] for name, found in self.bitmaps().items()},
                                 {"a": ["kept"], "b": ["kept"]})
                for name in "ab":
                    self.monitor.execute("block-dirty-bitmap-remove", node=name, name="kept")
                self.kill()


class Groups(Killed):
    def counts(self):
        found = self.bitmaps()
        return [next(bitmap["count"] for bitmap in found[name] if bitmap["name"] == "since") for name in "ab"]

    def begin(self):
        actions = []
        for name in "ab":
            (self.path / f"t{name}.raw").write_bytes(bytes(DISK))
            self.monitor.execute("blockdev-add", driver="file", filename=f"t{name}.raw", **{"node-name": f"t{name}"})
            actions += [action("block-dirty-bitmap-clear", node=name, name="since"),
                        action("blockdev-backup", device=name, target=f"t{name}", job_id=f"j{name}", sync="full")]
        self.monitor.execute("transaction", actions=actions, properties={"completion-mode": "grouped"})

    def test_end_on_both_disks_or_on_none_when_the_daemon_is_killed(self):
        self.raw("a.raw", DISK)
        self.qcow2("b.qcow2", DISK)
        self.open()
        for name in "ab":
            self.monitor.execute("block-dirty-bitmap-add", node=name, name="since", persistent=True)
        rng = random.Random(1)
        for number in range(10):
            for name in "ab":
                writer = self.disk(name)
                writer.pwrite(b"\x5a" * BLOCK, 0)
                writer.flush()
                writer.shutdown()
            self.begin()
            if number == 0:
                for name in "ab":
                    self.monitor.wait_event("BLOCK_JOB_COMPLETED", device=f"j{name}")
            else:
                time.sleep(rng.random() * 0.08)
            self.kill()
            self.open()
            one, other = self.counts()
            self.assertEqual(one == 0, other == 0, f"round {number}: {one}, {other}")
            self.assertTrue(number or one == 0)


if __name__ == "__main__":
    unittest.main()
