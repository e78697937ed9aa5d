"""Backups and snapshots whose new files are in a directory that takes its time: the guest waits for none of it.  The directory's syncs
end when the test lets them (journal_fs), which is when the guest has written: nothing here depends on how fast anything is."""
import json
import os
import pathlib
import threading
import time
import unittest

from bed import KiB, MiB, Bed, first_difference
from lab.qmp import QmpError

DISK, PATIENCE = 4 * MiB, 20


def action(kind, **data):
    return {"type": kind, "data": {key.replace("_", "-"): value for key, value in data.items()}}


class SlowDirectory(Bed):
    def setUp(self):
        if not os.path.exists("/dev/fuse"):
            self.skipTest("no /dev/fuse here: no directory can be made slow")
        super().setUp()
        for name in ("backing", "slow"):
            (self.path / name).mkdir()
        os.mkfifo(self.path / "gate")
        self.journal = self.path / "journal"
        files = self.lab.start(self.tidemark.parent / "journal_fs", self.path / "backing", self.journal, self.path / "slow",
                               self.path / "gate")
        self.addCleanup(self.lab.stop, files)
        self.until(lambda: os.path.ismount(self.path / "slow"), "the file system is mounted")
        self.gate = os.open(self.path / "gate", os.O_RDWR)
        self.addCleanup(os.close, self.gate)
        self.raw("disk.raw", DISK)
        self.raw("other.raw", DISK, seed=2)
        self.serve("disk.raw=disk", "other.raw=other")
        self.addCleanup(self.lab.stop, self.daemon)
        self.monitor = self.qmp()
        self.guest = self.disk()
        self.passed = self.written = 0
        self.addCleanup(self.open_gate)

    def open_gate(self):
        os.write(self.gate, bytes(4096))

    def syncs(self):
        """Those that have begun."""
        return self.journal.read_bytes().count(b"sync /") + self.journal.read_bytes().count(b"syncdir /")

    def write(self):
        """The guest writes, and does not wait long: whether it was done."""
        self.written += 1
        done = []
        self.guest.aio_pwrite(self.written.to_bytes(2, "big") * (2 * KiB), self.written % 64 * 64 * KiB,
                              lambda error: done.append(error.value) or 1)
        end = time.monotonic() + PATIENCE
        while not done and time.monotonic() < end:
            self.guest.poll(100)
        return done == [0]

    def carry_out(self, command, refused="", **arguments):
        """Each sync in the directory waits for a write of the guest.  How many there were."""
        result = []

        def execute():
            try:
                result.append(self.monitor.execute(command, **arguments))
            except QmpError as error:
                result.append(error)

        before = self.passed
        thread = threading.Thread(target=execute, daemon=True)
        thread.start()
        while thread.is_alive():
            if self.syncs() > self.passed:
                if not self.write():
                    self.open_gate()
                    thread.join()
                    self.fail(f"the guest waited for sync {self.passed - before + 1} of {command}")
                self.passed += 1
                os.write(self.gate, b".")
            thread.join(0.01)
        if refused:
            self.assertIsInstance(result[0], QmpError)
            self.assertIn(refused, str(result[0]))
        else:
            self.assertEqual(result, [{}])
        return self.passed - before

    def backup(self, name, device="disk", **more):
        return {"job_id": name, "device": device, "target": f"slow/{name}.qcow2", "format": "qcow2", "sync": "none",
                "auto_dismiss": False, **more}

    def snapshot(self, name, node="disk"):
        return {"node_name": node, "snapshot_file": f"slow/{name}.qcow2", "snapshot_node_name": name}

    def assert_left(self, *names):
        """What was removed under a lock stays a moment longer, under a name of FUSE's."""
        entries = lambda: sorted(entry.name for entry in pathlib.Path(self.path / "backing").iterdir())
        self.until(lambda: not any(name.startswith(".fuse_hidden") for name in entries()), "the end of what was removed")
        self.assertEqual(entries(), sorted(names))

    def finish(self, *jobs):
        self.open_gate()
        for job in jobs:
            self.monitor.wait_job(job)

    def test_a_backup_alone(self):
        point = self.content()
        self.assertGreaterEqual(self.carry_out("drive-backup", **self.backup("b", sync="full")), 2)
        self.assert_left("b.qcow2")
        begun = self.written                     # before the point
        self.finish("b")
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "slow/b.qcow2", "b.raw")
        point = bytearray(point)
        for number in range(1, begun + 1):
            at = number % 64 * 64 * KiB
            point[at:at + 4 * KiB] = number.to_bytes(2, "big") * (2 * KiB)
        self.assertEqual(first_difference((self.path / "b.raw").read_bytes(), bytes(point)), None)

    def test_backups_of_a_transaction(self):
        self.assertGreaterEqual(self.carry_out("transaction", actions=[
            action("drive-backup", **self.backup("a", sync="full")),
            action("drive-backup", **self.backup("b", "other", sync="full"))]), 4)
        self.assert_left("a.qcow2", "b.qcow2")
        self.finish("a", "b")
        self.assertEqual(self.lab.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "other.raw", "slow/b.qcow2").returncode, 0)

    def test_a_snapshot(self):
        self.assertGreaterEqual(self.carry_out("blockdev-snapshot-sync", **self.snapshot("over")), 2)
        self.assert_left("over.qcow2")
        self.assertTrue(self.write())
        self.open_gate()
        self.guest.flush()
        self.assertIn("over", [export["node-name"] for export in self.monitor.execute("query-block-exports")])

    def test_files_that_are_there_and_empty(self):
        """As a manager of guests makes them, to say whose they are."""
        for name in ("b", "over"):
            (self.path / "backing" / f"{name}.qcow2").touch(0o640)
        actions = [action("drive-backup", **self.backup("b", sync="full")), action("blockdev-snapshot-sync", **self.snapshot("over", "other"))]
        self.carry_out("transaction", refused="Abort", actions=[*actions, action("abort")])
        self.carry_out("transaction", refused="Abort", actions=[action("abort"), *actions])
        for name in ("b", "over"):
            self.assertEqual((self.path / "backing" / f"{name}.qcow2").read_bytes(), b"")
        self.assertGreaterEqual(self.carry_out("transaction", actions=actions), 4)
        self.assert_left("b.qcow2", "over.qcow2")
        point = (self.path / "disk.raw").read_bytes()
        self.finish("b")
        self.assertEqual((self.path / "backing" / "b.qcow2").stat().st_mode & 0o777, 0o640)
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "slow/b.qcow2", "b.raw")
        self.assertEqual(first_difference((self.path / "b.raw").read_bytes(), point), None)

    def test_a_snapshot_and_a_backup_of_what_is_on_top_then(self):
        self.assertGreaterEqual(self.carry_out("transaction", actions=[
            action("blockdev-snapshot-sync", **self.snapshot("over")),
            action("drive-backup", **self.backup("b", "over", sync="full"))]), 4)
        self.assert_left("b.qcow2", "over.qcow2")
        point = (self.path / "disk.raw").read_bytes()
        self.finish("b")
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "slow/b.qcow2", "b.raw")
        self.assertEqual(first_difference((self.path / "b.raw").read_bytes(), point), None)

    def test_a_target_that_names_what_the_same_transaction_makes(self):
        self.open_gate()                         # it is made once that is in place
        self.monitor.execute("transaction", actions=[
            action("blockdev-snapshot-sync", **self.snapshot("over")), action("blockdev-snapshot-sync", **self.snapshot("upper", "over")),
            action("drive-backup", **self.backup("top", "upper", sync="top")),
            action("drive-backup", **self.backup("none", "over", sync="none"))])
        for name, below in (("over", "disk.raw"), ("upper", "over.qcow2"), ("top", "over.qcow2"), ("none", "over.qcow2")):
            shown = json.loads(self.lab.run("qemu-img", "info", "-U", "--output=json", f"slow/{name}.qcow2").stdout)
            self.assertEqual(pathlib.Path(shown["full-backing-filename"]).name, below)
        self.monitor.execute("job-cancel", id="none")
        self.finish("top", "none")

    def test_a_file_that_is_there_keeps_its_content_when_nothing_comes_of_it(self):
        self.open_gate()
        for name in ("b", "over"):
            (self.path / "backing" / f"{name}.qcow2").write_bytes(b"mine")
        self.passed = self.syncs()
        self.carry_out("transaction", refused="Abort", actions=[
            action("abort"), action("drive-backup", **self.backup("b")), action("blockdev-snapshot-sync", **self.snapshot("over"))])
        self.carry_out("transaction", refused="Abort", actions=[action("drive-backup", **self.backup("b")), action("abort")])
        for name in ("b", "over"):
            self.assertEqual((self.path / "backing" / f"{name}.qcow2").read_bytes(), b"mine")

    def test_actions_do_not_see_what_those_behind_them_make(self):
        self.open_gate()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "upper.qcow2", f"{DISK}")
        self.monitor.execute("blockdev-add", driver="qcow2", node_name="upper", file={"driver": "file", "filename": "upper.qcow2"})
        nodes = len(self.monitor.execute("query-named-block-nodes"))
        for before in (action("drive-backup", **self.backup("b", "over", sync="full")),
                       action("blockdev-backup", device="over", target="upper", sync="full", job_id="b"),
                       action("block-dirty-bitmap-add", node="over", name="b"),
                       action("blockdev-snapshot", node="other", overlay="over"),
                       action("blockdev-snapshot-sync", **self.snapshot("far", "over"))):
            self.passed = self.syncs()
            self.carry_out("transaction", refused="over", actions=[before, action("blockdev-snapshot-sync", **self.snapshot("over"))])
            self.assert_left()
            self.assertEqual(len(self.monitor.execute("query-named-block-nodes")), nodes)
        self.passed = self.syncs()
        self.carry_out("transaction", refused="New overlay node-name already in use", actions=[
            action("blockdev-snapshot-sync", **self.snapshot("over")),
            action("blockdev-snapshot-sync", **{**self.snapshot("over", "other"), "snapshot_file": "slow/far.qcow2"})])
        self.assert_left()

    def test_an_overlay_gets_bitmaps_that_follow_the_disk(self):
        self.monitor.execute("block-dirty-bitmap-add", node="disk", name="f", persistent=True, follows_disk=True)
        snapshot = action("blockdev-snapshot-sync", **self.snapshot("over"))
        self.open_gate()
        self.passed = self.syncs()
        self.carry_out("transaction", refused="Abort", actions=[snapshot, action("abort")])
        self.carry_out("transaction", refused="Abort", actions=[action("abort"), snapshot])
        added = action("block-dirty-bitmap-add", node="over", name="b", persistent=True)
        self.carry_out("transaction", refused="Abort", actions=[snapshot, added, action("abort")])
        self.assert_left()
        self.monitor.execute("transaction", actions=[snapshot])
        self.assert_left("over.qcow2", "over.qcow2.tidemark")
        found = {node["node-name"]: node["dirty-bitmaps"] for node in self.monitor.execute("query-named-block-nodes") if node.get("dirty-bitmaps")}
        self.assertEqual([bitmap["name"] for bitmap in found["over"]], ["f"])

    def test_what_is_undone_leaves_nothing(self):
        nodes = len(self.monitor.execute("query-named-block-nodes"))
        for actions in ([action("drive-backup", **self.backup("b")), action("blockdev-snapshot-sync", **self.snapshot("over"))],
                        [action("blockdev-snapshot-sync", **self.snapshot("over")),
                         action("drive-backup", **self.backup("b", "over", sync="full"))]):
            for order in (actions + [action("abort")], [action("abort")] + actions):
                self.carry_out("transaction", refused="Abort", actions=order)
                self.assert_left()
                self.assertEqual(len(self.monitor.execute("query-named-block-nodes")), nodes)
                self.assertEqual(self.monitor.execute("query-jobs"), [])


if __name__ == "__main__":
    unittest.main()
