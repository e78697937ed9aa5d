"""A real guest: Linux, ext4 and a program that writes files, on a disk that is backed up, copied, snapshot and killed meanwhile."""
import json
import pathlib
import shutil
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from bed import Bed, first_difference
from machine import Machine

KEPT = 24                                        # files at a time: older ones are removed

# Writes files, each durable before its line is written to /mnt/sums: wherever it is cut off, what a line names is there as it says.
WRITER = f"""n=$(sed -n '$s/ .*//p' /mnt/sums 2>/dev/null); n=${{n:-0}};
while [ ! -e /tmp/stop ]; do n=$((n+1)); dd if=/dev/urandom of=/mnt/f$n bs=1k count=$((n * 37 % 300 + 1)) conv=fsync 2>/dev/null || exit 1;
echo "$n $(sha256sum < /mnt/f$n | cut -c1-64)" >> /mnt/sums; sync; rm -f /mnt/f$((n - {KEPT})); done""".replace("\n", " ")


class Guest(Bed):
    def setUp(self):
        super().setUp()
        self.boot = self.tidemark.parent / "guest-boot"
        self.lab.run(pathlib.Path(__file__).with_name("boot"), self.boot)
        self.lab.run("truncate", "-s", "96M", "disk.raw")
        self.lab.run("mke2fs", "-q", "-F", "-t", "ext4", "disk.raw")

    def start(self, image):
        self.image = image
        self.serve(f"{image}=disk")
        self.machine = Machine(self.lab, self.boot, self.path / "nbd.sock", "disk")
        self.machine.run("mount -t ext4 -o discard /dev/vda /mnt && touch /mnt/sums")

    def write(self):
        self.machine.run(f"rm -f /tmp/stop /tmp/ended; ({WRITER}; echo $? > /tmp/ended) >/dev/null 2>&1 &")

    def stop_writing(self):
        self.machine.run("touch /tmp/stop; until [ -e /tmp/ended ]; do usleep 20000; done; exit $(cat /tmp/ended)")

    def written(self):
        """How many files are durable by now."""
        return int(self.machine.run("sed -n '$s/ .*//p' /mnt/sums") or 0)

    def until_written(self, count):
        self.until(lambda: self.written() >= count, f"{count} files", patience=120)

    def end_guest(self):
        self.machine.run("umount /mnt")
        self.machine.cut_power()

    def end_daemon(self):
        self.assertEqual(self.lab.stop(self.daemon), 0)

    def files_of(self, raw):
        """Plays its journal as a guest would that boots from it, and reads its files: the number of the last one."""
        self.lab.run("e2fsck", "-fp", raw, ok=(0, 1))
        self.lab.run("e2fsck", "-fn", raw)
        found = self.path / "files"
        found.mkdir()
        self.lab.run("debugfs", "-R", f"rdump / {found}", raw)
        sums = dict(line.split(" ") for line in (found / "sums").read_text().splitlines())
        last = len(sums)
        for number, told in sums.items():
            file = found / f"f{number}"
            if file.exists():
                self.assertEqual(self.lab.run("sha256sum", file).stdout[:64], told, f"file {number} of {raw}")
            else:
                self.assertLessEqual(int(number), last - KEPT, f"{raw} has lost file {number}")
        shutil.rmtree(found)
        return last

    def test_points_are_what_a_guest_had_written(self):
        """Each is as a disk after a power cut at its moment."""
        self.start("disk.raw")
        self.write()
        points = []
        for _ in range(5):
            self.until_written(points[-1][1] + 8 if points else 8)
            points.append((self.backup()["point"], self.written()))
            before = points[-2][1] if len(points) > 1 else 8
            points[-1] = (*points[-1], before)
        self.stop_writing()
        last = self.backup("--level", "incremental")["point"]
        self.end_guest()
        for point, after, before in points:
            self.run_tidemark("restore", "backups", point, "--to", "point.raw")
            found = self.files_of("point.raw")
            self.assertTrue(before <= found <= after, (before, found, after))
            (self.path / "point.raw").unlink()
        self.run_tidemark("verify", "backups")
        self.run_tidemark("restore", "backups", last, "--to", "last.raw")
        self.end_daemon()
        self.assertEqual(self.files_of("last.raw"), self.files_of("disk.raw"))

    def test_a_guest_at_rest(self):
        """Frozen by its own kernel: a point's file system is whole, and wants no journal played."""
        self.start("disk.raw")
        self.write()
        self.until_written(8)
        (self.path / "hook").write_text(f"touch {self.path}/$1; while [ -e {self.path}/$1 ]; do sleep 0.01; done\n")
        backup = self.lab.start(self.tidemark, "--json", "backup", "backups", "--quiesce", f"sh {self.path}/hook", stdout=-1, text=True)
        for asked, done in (("freeze", "fsfreeze --freeze /mnt"), ("thaw", "fsfreeze --unfreeze /mnt")):
            self.until((self.path / asked).exists, asked)
            self.machine.run(done)
            (self.path / asked).unlink()
        status, told, _ = self.end_of(backup)
        self.assertEqual(status, 0)
        self.until_written(self.written() + 8)
        self.stop_writing()
        self.end_guest()
        self.run_tidemark("restore", "backups", json.loads(told)["point"], "--to", "point.raw")
        self.lab.run("e2fsck", "-fn", "point.raw")
        self.assertNotIn("needs_recovery", self.lab.run("dumpe2fs", "-h", "point.raw").stdout)
        self.files_of("point.raw")

    def test_layers_come_and_go(self):
        """Snapshots, a pull, a copy that the guest goes over to, and a commit: the guest does not see them."""
        self.lab.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2")
        self.start("disk.qcow2")
        self.write()
        for step in (("snapshot", "create", "disk", "--name", "a"), ("snapshot", "create", "disk", "--name", "b"),
                     ("snapshot", "delete", "disk", "1", "--way", "pull"), ("snapshot", "create", "disk", "--name", "c"),
                     ("snapshot", "delete", "disk", "2", "--way", "commit"), ("chain", "copy", "disk", "copy.qcow2", "--pivot"),
                     ("snapshot", "create", "disk", "--name", "d"), ("snapshot", "delete", "disk", "1", "--way", "commit")):
            self.until_written(self.written() + 5)
            self.run_tidemark(*step)
        self.until_written(self.written() + 5)
        self.stop_writing()
        count = self.written()
        self.end_guest()
        client = self.qmp()
        export, = client.execute("query-block-exports")
        image = next(one["file"] for one in client.execute("query-named-block-nodes", flat=True) if one["node-name"] == export["node-name"])
        content = self.content()
        self.end_daemon()
        self.lab.run("qemu-img", "check", "-q", image)
        self.lab.run("qemu-img", "convert", "-O", "raw", image, "end.raw")
        self.assertEqual(first_difference((self.path / "end.raw").read_bytes(), content), None)
        self.assertEqual(self.files_of("end.raw"), count)

    def test_a_guest_outlives_its_daemon(self):
        """It goes on with the next one; the chain of backups does, too."""
        self.start("disk.raw")
        self.write()
        self.until_written(8)
        self.backup(level="full")
        for _ in range(3):
            self.until_written(self.written() + 8)
            self.lab.stop(self.daemon, signal.SIGKILL)
            self.serve(f"{self.image}=disk")
            self.until_written(self.written() + 3)
            self.backup(level="incremental")
        self.stop_writing()
        count = self.written()
        self.end_guest()
        self.assert_restores(self.backup(level="incremental")["point"], self.content())
        self.end_daemon()
        self.assertEqual(self.files_of("disk.raw"), count)

    def test_all_dies_at_once(self):
        """What the guest had made durable is there, and the next backup is an incremental one that is right."""
        self.lab.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2")
        self.start("disk.qcow2")
        self.write()
        self.until_written(8)
        self.backup(level="full")
        for _ in range(2):
            self.until_written(self.written() + 8)
            before = self.written()
            self.machine.cut_power()
            self.lab.stop(self.daemon, signal.SIGKILL)
            self.start(self.image)
            self.assertGreaterEqual(self.written(), before)
            self.write()
            point = self.backup(level="incremental")["point"]
            self.run_tidemark("restore", "backups", point, "--to", "point.raw")
            self.assertGreaterEqual(self.files_of("point.raw"), before)
            (self.path / "point.raw").unlink()
        self.stop_writing()
        self.end_guest()
        self.assert_restores(self.backup(level="incremental")["point"], self.content())


if __name__ == "__main__":
    unittest.main()
