"""The checkpoint that is taken with a point: it is there with the point, or not at all, whoever dies meanwhile."""
import json
import signal
import socket
import subprocess
import time
import unittest

from bed import INTERRUPTED, MiB, Bed
from lab.qmp import Qmp


class CutOff(Bed):
    def setUp(self):
        super().setUp()
        self.raw("disk.img", 32 * MiB)
        self.serve("disk.img=disk")
        self.backup(level="full")
        self.change(count=400)
        self.note = self.path / "backups" / "checkpoint.json"

    def test_ctrl_c_keeps_the_checkpoints_of_other_disks(self):
        self.raw("other.img", MiB)
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("blockdev-add", driver="raw", node_name="other", file={"driver": "file", "filename": "other.img"})
            qmp.execute("checkpoint-create", name="weekly", disks=["other"])
            process = self.start_slow_backup("--level", "full", "--disk", "disk", "--checkpoint", "weekly")
            process.send_signal(signal.SIGINT)
            self.assertEqual(self.end_of(process)[0], INTERRUPTED)
            left = qmp.execute("query-checkpoints")
        self.assertEqual([(checkpoint["name"], [disk["node"] for disk in checkpoint["disks"]]) for checkpoint in left],
                         [("weekly", ["other"])])

    def checkpoints(self):
        with Qmp(self.path / "qmp.sock") as qmp:
            return [one["name"] for one in qmp.execute("query-checkpoints")]

    def start_with_checkpoint(self, name):
        process = self.start_slow_backup("--level", "full", "--checkpoint", name)
        self.until(lambda: "bitmap" in self.note.read_text(), "the checkpoint is noted")
        return process

    def test_the_checkpoint_of_a_backup_that_was_cut_off_does_not_block_the_next(self):
        """Of one that was killed, and of one whose daemon was."""
        self.json("backup", "backups", "--checkpoint", "monday")
        for cut_off in ("run", "daemon"):
            with self.subTest(cut_off):
                process = self.start_with_checkpoint("tuesday")
                (process if cut_off == "run" else self.daemon).kill()
                self.end_of(process)
                if cut_off == "daemon":
                    self.daemon.wait(10)
                    self.lab.ended(self.daemon)
                    self.serve("disk.img=disk")
                self.assertEqual(self.checkpoints(), ["monday", "tuesday"])
                self.json("backup", "backups", "--checkpoint", "tuesday")
                self.assertFalse(self.note.exists())
                self.assertEqual(self.checkpoints(), ["monday", "tuesday"])
                self.json("backup", "backups", "--since", "tuesday")
                self.run_tidemark("checkpoint", "delete", "tuesday")
        self.assertIn("disk 'disk' has a checkpoint 'monday' already; give another name, or delete that one first",
                      self.fails("backup", "backups", "--checkpoint", "monday"))

    def test_a_checkpoint_that_somebody_has_taken_by_that_name_since_stays(self):
        process = self.start_with_checkpoint("tuesday")
        process.kill()
        self.end_of(process)
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("checkpoint-delete", name="tuesday")
            qmp.execute("checkpoint-create", name="tuesday", disks=["disk"])
        self.json("backup", "backups")
        self.assertEqual(self.checkpoints(), ["tuesday"])

    def test_the_checkpoint_of_a_published_point_stays(self):
        """The run was killed just before it had forgotten its note; the point has two disks."""
        self.raw("more.img", MiB)
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("blockdev-add", driver="raw", node_name="more", file={"driver": "file", "filename": "more.img"})
        self.json("backup", "backups", "--disk", "disk", "--disk", "more", "--checkpoint", "monday")
        with Qmp(self.path / "qmp.sock") as qmp:
            bitmap = qmp.execute("query-checkpoints")[0]["disks"][0]["bitmap"]
        self.note.write_text(json.dumps({"bitmap": bitmap}))
        self.json("backup", "backups")
        self.assertEqual(self.checkpoints(), ["monday"])
        self.assertFalse(self.note.exists())

    def kill_at_transaction(self, answered, *words):
        """Kills a backup when it has sent its transaction: once it is answered, or before the daemon hears of it."""
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        (self.path / "between.sock").unlink(missing_ok=True)
        listening.bind(str(self.path / "between.sock"))
        listening.listen()
        process = self.lab.start(self.tidemark, "backup", "backups", *words, "--qmp", "between.sock", stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
        with listening.accept()[0] as client, socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(str(self.path / "qmp.sock"))
            asked, told = client.makefile("rb"), daemon.makefile("rb")
            self.addCleanup(asked.close)
            self.addCleanup(told.close)
            client.sendall(told.readline())
            for line in asked:
                last = json.loads(line)["execute"] == "transaction"
                if not last or answered:
                    daemon.sendall(line)
                    answer = told.readline()
                    while b'"event"' in answer:
                        answer = told.readline()
                if last:
                    break
                client.sendall(answer)
            process.kill()
            self.end_of(process)

    def test_of_a_run_that_was_killed_before_it_knew_it(self):
        for answered in (True, False):
            with self.subTest(answered=answered):
                self.kill_at_transaction(answered, "--checkpoint", "tuesday")
                self.assertEqual(self.checkpoints(), ["tuesday"] if answered else [])
                self.assertTrue(self.note.exists())
                self.json("backup", "backups", "--checkpoint", "tuesday")
                self.assertEqual((self.checkpoints(), self.note.exists()), (["tuesday"], False))
                self.backup("--since", "tuesday", level="incremental")
                self.run_tidemark("checkpoint", "delete", "tuesday")

    def test_of_a_run_that_was_killed_goes_with_the_next_that_takes_none(self):
        self.kill_at_transaction(True, "--checkpoint", "tuesday")
        self.backup()
        self.assertEqual((self.checkpoints(), self.note.exists()), ([], False))

    def test_what_others_have_taken_by_that_name_since_stays(self):
        """Of the transaction nothing is known but when it was sent, and its bitmaps: one taken later, or without them, is somebody's."""
        self.kill_at_transaction(False, "--checkpoint", "tuesday")
        with Qmp(self.path / "qmp.sock") as qmp:
            qmp.execute("checkpoint-create", name="tuesday", disks=["disk"])
        self.backup()
        self.assertEqual(self.checkpoints(), ["tuesday"])
        self.kill_at_transaction(True, "--checkpoint", "wednesday")
        self.note.write_text(json.dumps({**json.loads(self.note.read_text()), "noted-ns": time.time_ns() - 60 * 10 ** 9}))
        self.backup()
        self.assertEqual(self.checkpoints(), ["tuesday", "wednesday"])


if __name__ == "__main__":
    unittest.main()
