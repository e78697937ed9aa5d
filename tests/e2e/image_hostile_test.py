"""Images made to cost time and memory: a few bytes that say there is more than anybody could read.  Each is told about in
bounded time and memory."""
import resource
import struct
import subprocess
import unittest

from bed import DAMAGED, DONE, FAILED, KiB, MiB
from image_bed import CORRUPT, ImageBed

GiB = 1 << 30
CLUSTER = 64 * KiB
TABLE, BLOCK, L1, SNAPSHOTS, L2 = CLUSTER, 2 * CLUSTER, 1 * GiB, 4 * GiB, 2 * GiB
L1_ENTRIES = 32 * MiB // 8                       # the most there can be
COPIED = 1 << 63
MEMORY_MAX, SECONDS_MAX = 1 * GiB, 50


class Hostile(ImageBed):
    def write(self, name, size, l1_entries, parts, snapshots=0, autoclear=0, extension=b"", file_size=1 << 40):
        header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, size, 0, l1_entries, L1, TABLE, 1, snapshots,
                             SNAPSHOTS if snapshots else 0)
        header += struct.pack(">QQQII", 0, 0, autoclear, 4, 104) + extension + bytes(8)
        with open(self.path / name, "wb") as file:
            file.truncate(file_size)
            for at, content in ((0, header), (TABLE, struct.pack(">Q", BLOCK)), *parts):
                file.seek(at)
                file.write(content)
        return name

    def bounded(self, *words, among):
        """Runs tidemark with little memory: what it says."""
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
        done = subprocess.run([self.tidemark, *words], cwd=self.path, preexec_fn=limit, timeout=SECONDS_MAX, text=True,
                              errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertIn(done.returncode, among, f"{words}: {done.stdout[:2000]}")
        return done.stdout

    def look(self, name, says):
        self.bounded("image", "info", name, among=(DONE,))
        for repair in ((), ("--repair", "leaks"), ("--repair", "all")):
            self.assertIn(says, self.bounded("image", "check", "-f", "qcow2", *repair, name, among=(DONE, CORRUPT)))
        self.bounded("image", "bitmap", "--remove", name, "none", among=(FAILED,))

    def test_one_l2_table_for_all_of_the_disk(self):
        size = L1_ENTRIES * CLUSTER // 8 * CLUSTER
        entries = struct.pack(">Q", L2 | COPIED) * L1_ENTRIES
        far = b"".join(struct.pack(">Q", (i * 16 * CLUSTER + 8 * GiB) | COPIED) for i in range(CLUSTER // 8))
        self.look(self.write("a", size, L1_ENTRIES, ((L1, entries), (L2, far))), "refcount is not 1")

    def test_l2_tables_that_are_holes(self):
        size = L1_ENTRIES * CLUSTER // 8 * CLUSTER
        entries = b"".join(struct.pack(">Q", 8 * GiB + i * CLUSTER) for i in range(L1_ENTRIES))
        self.look(self.write("a", size, L1_ENTRIES, ((L1, entries),)), "ERROR")

    def test_snapshots_that_share_the_largest_l1_table(self):
        entries = struct.pack(">Q", L2 | COPIED) * L1_ENTRIES
        table = b"".join(struct.pack(">QIHHIIQIIQQ", L1, L1_ENTRIES, 2, 2, 0, 0, 0, 0, 16, 0, 1 << 40) + b"%c%cnn" % (i >> 8, i & 255) +
                         bytes(4) for i in range(65535))
        name = self.write("a", 1 << 40, L1_ENTRIES, ((L1, entries), (SNAPSHOTS, table)), snapshots=65535)
        self.look(name, "refcount is not 1")
        opened = f'json:{{"driver":"qcow2","overlap-check":"all","file":{{"driver":"file","filename":"{name}"}}}}'
        self.assertIn("overlap", self.bounded("image", "resize", opened, "+1M", among=(DAMAGED,)))

    def test_snapshots_with_l1_tables_that_are_holes(self):
        table = b"".join(struct.pack(">QIHHIIQIIQQ", 8 * GiB + i * 32 * MiB, L1_ENTRIES, 2, 2, 0, 0, 0, 0, 16, 0, 1 << 40) +
                         b"%c%cnn" % (i >> 8, i & 255) + bytes(4) for i in range(20000))
        name = self.write("a", 1 << 40, L1_ENTRIES, ((SNAPSHOTS, table),), snapshots=20000)
        self.look(name, "refcount=0")

    def test_bitmaps_that_share_the_largest_table(self):
        directory = b"".join(struct.pack(">QIIBBHI", 8 * GiB, 1 << 27, 0, 1, 9, 8, 0) + b"%08d" % i for i in range(65535))
        extension = struct.pack(">II", 0x23852875, 24) + struct.pack(">IIQQ", 65535, 0, len(directory), SNAPSHOTS)
        name = self.write("a", 0, 0, ((SNAPSHOTS, directory),), autoclear=1, extension=extension)
        self.look(name, "overlaps another table")


if __name__ == "__main__":
    unittest.main()
