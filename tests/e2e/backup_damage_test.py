"""What is wrong in a backup directory is told as what it is: damage, or what kept it from being read."""
import os
import shutil
import struct
import subprocess
import unittest

from bed import DAMAGED, FAILED, KiB, MiB, Bed, flip


class Damaged(Bed):
    def setUp(self):
        super().setUp()
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.points = [self.backup()["point"]]
        self.change()
        self.points.append(self.backup(level="incremental")["point"])
        self.content_at_end = self.content()

    def image(self, n):
        return self.path / "backups" / "points" / self.points[n] / "disk.qcow2"

    def assert_damaged(self, names):
        line = self.fails("restore", "backups", "--to", "out.img", expect=DAMAGED)
        for name in names:
            self.assertIn(name, line)
        self.assertEqual([p.name for p in self.path.iterdir() if p.name.startswith("out.img")], [])
        rows = self.json("verify", "backups", "--all", expect=DAMAGED)
        self.assertIn(False, [row["ok"] for row in rows])

    def test_a_flipped_bit(self):
        flip(self.image(0), self.image(0).stat().st_size - 70000)
        self.assert_damaged(["'disk'", self.points[1], "checksum"])

    def test_images_that_cannot_be_opened(self):
        """For whatever reason that is: none is in how they are read."""
        good = self.image(0).read_bytes()
        for offset, content in ((0, b"XXXX"), (4, bytes(4)), (20, b"\0\0\0\x3c"), (32, b"\0\0\0\2"), (40, bytes(7) + b"\1"),
                                (64, bytes(7) + b"\1"), (72, b"\x40"), (79, b"\4"), (95, b"\2")):
            with self.subTest(offset):
                self.image(0).write_bytes(good[:offset] + content + good[offset + len(content):])
                self.assert_damaged(["'disk'", self.points[1], "is damaged, nothing was restored"])
                other = self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.image(0), "other.raw", ok=None)
                self.assertNotEqual(other.returncode, 0)
        self.image(0).write_bytes(b"")
        self.assert_damaged(["'disk'", self.points[1], "is damaged, nothing was restored"])

    def test_one_entry_of_a_table_is_one_granule(self):
        with open(self.image(0), "r+b") as file:
            file.seek(40)
            file.seek(struct.unpack(">Q", file.read(8))[0])
            l2 = struct.unpack(">Q", file.read(8))[0] & 0x00fffffffffffe00
            file.seek(l2 + 8 * 20 + 6)
            file.write(b"\2")                              # the cluster begins within another
        self.fails("restore", "backups", self.points[0], "--to", "out.img", expect=DAMAGED)
        row, = self.json("verify", "backups", self.points[0], expect=DAMAGED)
        self.assertEqual((row["mismatches"], row["first-mismatches"]), (1, [{"offset": 20 * 64 * KiB, "length": 64 * KiB}]))
        self.assertIn("is corrupt: the L2 entry", row["error"])
        told = self.run_tidemark("verify", "backups", self.points[0], expect=DAMAGED).stdout
        self.assertIn("DAMAGED: 1 granules differ from their checksum or cannot be read: ", told)

    def test_what_keeps_it_from_being_read_is_no_damage(self):
        """Nor is an error of a disk found by who reads it, whether at once or in the middle."""
        if not shutil.which("strace"):
            self.skipTest("no strace here")
        for n in (1, 2):
            inject = ["strace", "-f", "-o", "trace", "-P", str(self.image(0)), "-e", "trace=preadv2,preadv,pread64",
                      "-e", f"inject=preadv2,preadv,pread64:error=EIO:when={n}+", self.tidemark, "--aio", "threads"]
            for words in (["verify", "backups", self.points[0]], ["restore", "backups", self.points[0], "--to", "out.img"]):
                with self.subTest(n=n, words=words):
                    done = self.lab.run(*inject, *words, ok=None)
                    self.assertEqual(done.returncode, FAILED, done.stdout + done.stderr)
                    self.assertIn("Input/output error", done.stdout + done.stderr)
                    self.assertNotIn("DAMAGED", done.stdout)
            done = self.lab.run(*inject, "verify", "backups", self.points[0], ok=None)
            self.assertIn("NOT VERIFIED", done.stdout)

    def test_names_in_images_tell_a_terminal_nothing(self):
        forged = b"../x\x1b[2J\nFORGED  disk  ok: 1 MiB\n\xff\xfe"
        data = self.image(1).read_bytes()
        at, length = struct.unpack(">QI", data[8:20])
        self.assertLess(len(forged), length)
        self.image(1).write_bytes(data[:at] + forged.ljust(length, b".") + data[at + length:])
        for words in (["verify", "backups"], ["restore", "backups", "--to", "out.img"], ["image", "info", self.image(1)]):
            done = subprocess.run([self.tidemark, *words], cwd=self.path, env=self.lab.env, capture_output=True)
            told = done.stdout + done.stderr
            self.assertIn(rb"../x\x1b[2J\x0aFORGED  disk  ok: 1 MiB\x0a\xff\xfe.", told)
            self.assertNotIn(b"\x1b", told)
            told.decode()

    def test_a_directory_without_its_points(self):
        points, marker = self.path / "backups" / "points", self.path / "backups" / "tidemark-backup.json"
        for words in (["list", "backups"], ["verify", "backups", "--all"], ["restore", "backups", "--to", "out.img"]):
            points.rename(self.path / "away")
            self.assertIn("backups/points", self.fails(*words, expect=DAMAGED))
            points.symlink_to("nowhere")
            self.assertIn("backups/points", self.fails(*words, expect=DAMAGED))
            points.unlink()
            (self.path / "away").rename(points)
            whole = marker.read_text()
            for content in (whole[:10], ""):
                marker.write_text(content)
                self.assertIn("tidemark-backup.json", self.fails(*words, expect=DAMAGED))
            marker.write_text(whole)
        points.rename(self.path / "away")
        for words in ([], ["--disk", "nobody"]):
            self.assertIn("backups/points", self.fails("backup", "backups", *words, expect=DAMAGED))
            self.assertFalse(points.exists(), words)
        (self.path / "away").rename(points)
        self.assert_restores(self.backup()["point"], self.content_at_end)

    def test_a_beginning_of_the_ids_of_a_damaged_point_and_another(self):
        self.image(1).with_name("manifest.json").write_text("{")
        both = os.path.commonprefix(self.points)
        for words in (["restore", "backups", both, "--to", "out.img"], ["verify", "backups", both]):
            self.assertIn("several points", self.fails(*words))
        for words in (["restore", "backups", self.points[1][:-1], "--to", "out.img"], ["verify", "backups", self.points[1][:-1]]):
            self.assertIn(self.points[1], self.fails(*words, expect=DAMAGED))
        self.run_tidemark("verify", "backups", self.points[0][:-1])

    def test_a_missing_image(self):
        self.image(0).unlink()
        self.assert_damaged(["'disk'", self.points[0]])

    def test_a_short_image(self):
        with open(self.image(0), "r+b") as file:
            file.truncate(1 * MiB)
        self.assert_damaged(["'disk'"])

    def test_missing_sums(self):
        self.image(0).with_name("disk.sums").unlink()
        self.assert_damaged(["'disk'", self.points[0]])

    def test_the_latest_is_not_an_older_one(self):
        self.image(1).with_name("manifest.json").write_text("{")
        for words in (["restore", "backups", "--to", "out.img"], ["restore", "backups", "latest", "--to", "out.img"], ["verify", "backups"]):
            self.assertIn(f"may be {self.points[1]}", self.fails(*words, expect=DAMAGED))
        self.assertFalse((self.path / "out.img").exists())
        self.run_tidemark("verify", "backups", self.points[0])
        self.assert_restores(self.backup(level="full")["point"], self.content_at_end)
        self.run_tidemark("verify", "backups")

    def test_a_chain_by_other_names(self):
        other = self.path / "backups" / "points" / ".other"
        other.mkdir()
        (other / "disk.qcow2").write_bytes(self.image(0).read_bytes())
        self.lab.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", "../.other/disk.qcow2", self.image(1))
        self.assert_damaged(["'disk'", "../.other/disk.qcow2"])

    def test_a_file_that_points_nowhere_hides_no_point(self):
        self.image(0).with_name("note").symlink_to("nowhere")
        self.assertEqual(len(self.json("list", "backups")["points"]), 2)

    def test_a_broken_manifest_hides_the_point_and_what_builds_on_it(self):
        (self.image(0).with_name("manifest.json")).write_text("{")
        done = self.run_tidemark("verify", "backups", "--all", expect=DAMAGED)
        self.assertIn(self.points[0], done.stderr)
        self.assert_restores(self.backup(level="full")["point"], self.content_at_end)


if __name__ == "__main__":
    unittest.main()
