"""tidemark image check: what it finds and repairs, with qemu-img as the judge."""
import json
import random
import struct
import unittest

from bed import DONE, FAILED, USAGE, KiB, MiB
from image_bed import CANNOT_CHECK, CORRUPT, LEAKS, ImageBed


class Check(ImageBed):
    def both(self, name):
        """What both say of an image; they have to agree."""
        done = self.qemu_img("check", "--output=json", name, ok=None)
        theirs = json.loads(done.stdout)
        ours = json.loads(self.run_tidemark("--json", "image", "check", name, expect=done.returncode).stdout)
        for key in ("corruptions", "leaks", "allocated-clusters", "fragmented-clusters", "compressed-clusters", "total-clusters",
                    "check-errors", "image-end-offset"):
            self.assertEqual(ours.get(key, 0), theirs.get(key, 0), f"{key}: {done.stdout} {ours['messages'][:5]}")
        return ours

    def test_sound_images(self):
        for options in ((), ("-o", "compat=0.10"), ("-o", "cluster_size=512"), ("-o", "cluster_size=2M,refcount_bits=1"),
                        ("-o", "refcount_bits=64"), ("-o", "extended_l2=on"), ("-o", "preallocation=metadata")):
            name = self.make("a.qcow2", *options, writes=60)
            self.assertEqual(self.both(name)["corruptions"], 0)
            if "refcount_bits=1" in str(options):
                continue
            for n in range(3):
                self.qemu_img("snapshot", "-c", f"s{n}", name)
                self.scribble(name, seed=n)
            if "0.10" not in str(options):
                self.qemu_img("bitmap", "--add", name, "bitmap")
                self.scribble(name, seed=9)
            self.both(name)
            self.qemu_img("convert", "-c", "-O", "qcow2", name, "c.qcow2")
            self.assertGreater(self.both("c.qcow2")["compressed-clusters"], 0)

    def damage(self, name, rng):
        """Changes refcounts at random: how many."""
        data = bytearray((self.path / name).read_bytes())
        table = struct.unpack_from(">Q", data, 48)[0]
        block = struct.unpack_from(">Q", data, table)[0]
        clusters = len(data) // (64 * KiB)
        for _ in range(rng.randrange(1, 12)):
            struct.pack_into(">H", data, block + 2 * rng.randrange(clusters), rng.choice([0, 1, 2, 3, 65535]))
        (self.path / name).write_bytes(data)

    def test_wrong_refcounts_are_found_and_repaired(self):
        for seed in range(4):
            rng = random.Random(seed)
            name = self.make("a.qcow2", seed=seed)
            self.qemu_img("convert", "-O", "raw", name, "before.raw")
            if seed % 2:
                self.qemu_img("snapshot", "-c", "kept", name)
                self.scribble(name, seed=seed + 100)
                self.qemu_img("convert", "-O", "raw", name, "before.raw")
                self.qemu_img("convert", "-l", "kept", "-O", "raw", name, "kept.raw")
            self.damage(name, rng)
            self.both(name)
            self.image("check", "-r", "all", name)
            self.qemu_check(name)
            self.assertIn("identical", self.qemu_img("compare", name, "before.raw").stdout)
            if seed % 2:
                self.qemu_img("convert", "-l", "kept", "-O", "raw", name, "kept2.raw")
                self.assertIn("identical", self.qemu_img("compare", "kept.raw", "kept2.raw").stdout)

    def test_leaks_alone(self):
        name = self.make("a.qcow2")
        data = bytearray((self.path / name).read_bytes())
        block = struct.unpack_from(">Q", data, struct.unpack_from(">Q", data, 48)[0])[0]
        struct.pack_into(">H", data, block + 2 * (len(data) // (64 * KiB) + 3), 1)
        data += bytes(64 * KiB * 5)
        (self.path / name).write_bytes(data)
        self.assertEqual(self.both(name)["leaks"], 1)
        self.image("check", name, expect=LEAKS)
        self.image("check", "-r", "leaks", name)
        self.qemu_check(name)

    def test_leaks_of_clusters_that_are_used(self):
        """A snapshot's deletion that was cut off behind the header: each cluster is counted twice, and no flag says that it has one user."""
        name = self.make("a.qcow2")
        self.qemu_img("convert", "-O", "raw", name, "before.raw")
        self.qemu_img("snapshot", "-c", "s", name)
        data = bytearray((self.path / name).read_bytes())
        struct.pack_into(">I", data, 60, 0)
        (self.path / name).write_bytes(data)
        self.assertGreater(self.both(name)["leaks"], 1)
        self.assertEqual(self.both(name)["corruptions"], 0)
        self.image("check", "-r", "leaks", name)
        self.qemu_check(name)
        self.assertIn("identical", self.qemu_img("compare", name, "before.raw").stdout)

    def test_nobody_asked_for_a_repair(self):
        """Storing bitmaps gives back what they took before; not in an image where what an entry led to looks leaked."""
        self.make("a.qcow2", size="8M", writes=0)
        self.qemu_io("a.qcow2", "write -P 5 0 4M")
        self.qemu_img("bitmap", "--add", "a.qcow2", "b")
        data = bytearray((self.path / "a.qcow2").read_bytes())
        l1 = struct.unpack_from(">Q", data, 40)[0]
        table = struct.unpack_from(">Q", data, 48)[0]
        block = struct.unpack_from(">Q", data, table)[0]
        l2 = struct.unpack_from(">Q", data, l1)[0] & 0x00fffffffffffe00
        entry = struct.unpack_from(">Q", data, l2 + 8 * 40)[0]
        lost = (entry & 0x00fffffffffffe00) >> 16
        struct.pack_into(">Q", data, l2 + 8 * 40, entry + 512)
        (self.path / "a.qcow2").write_bytes(data)
        self.raw("r.raw", size=MiB)
        done = self.image("convert", "-n", "-O", "qcow2", "r.raw", "a.qcow2")
        self.assertEqual(struct.unpack_from(">H", (self.path / "a.qcow2").read_bytes(), block + 2 * lost)[0], 1)
        self.assertIn("'a.qcow2' is damaged: run 'tidemark image check a.qcow2'", done.stderr)

    def test_a_refcount_table_that_is_gone(self):
        name = self.make("a.qcow2")
        self.qemu_img("convert", "-O", "raw", name, "before.raw")
        data = bytearray((self.path / name).read_bytes())
        table = struct.unpack_from(">Q", data, 48)[0]
        for entry in (0, 1 << 40, (3 << 16) + 512, 3 << 16):
            struct.pack_into(">Q", data, table, entry)
            (self.path / name).write_bytes(data)
            self.image("check", name, expect=CORRUPT)
            self.image("check", "-r", "all", name)
            self.qemu_check(name)
            self.assertIn("identical", self.qemu_img("compare", name, "before.raw").stdout)

    def test_tables_that_lie(self):
        """No byte that is wrong makes it crash, hang or write where it should not."""
        name = self.make("a.qcow2", size="8M", writes=0)
        self.scribble(name, size=8 * MiB, writes=20)
        good = (self.path / name).read_bytes()
        l1 = struct.unpack_from(">Q", good, 40)[0]
        l2 = struct.unpack_from(">Q", good, l1)[0] & 0x00fffffffffffe00
        places = [l1, l2, l2 + 8, l2 + 16, struct.unpack_from(">Q", good, 48)[0]]
        rng = random.Random(5)
        for n in range(25):
            data = bytearray(good)
            for _ in range(rng.randrange(1, 4)):
                value = rng.choice([rng.getrandbits(64), rng.randrange(40) << 16, rng.randrange(40) << 16 | 1 << 63, l1, l2 | 1 << 63,
                                    1 << 62 | rng.getrandbits(62), 1 << 63])
                struct.pack_into(">Q", data, rng.choice(places), value)
            (self.path / name).write_bytes(data)
            theirs = self.qemu_img("check", name, ok=None).returncode
            ours = self.lab.run(self.tidemark, "image", "check", name, ok=None, timeout=20)
            self.assertIn(ours.returncode, (DONE, FAILED, CORRUPT, LEAKS), ours.stderr)
            self.assertEqual(ours.returncode == DONE, theirs == DONE, f"{n}: {ours.stdout}{ours.stderr}")
            self.lab.run(self.tidemark, "image", "check", "-r", "all", name, ok=None, timeout=20)
            again = self.lab.run(self.tidemark, "image", "check", name, ok=None, timeout=20)
            self.assertIn(again.returncode, (DONE, FAILED, CORRUPT, LEAKS))
            self.assertEqual((self.path / name).read_bytes()[:48], good[:48])

    def test_dirty_and_corrupt_bits_go_when_all_is_well(self):
        name = self.make("a.qcow2")
        data = bytearray((self.path / name).read_bytes())
        struct.pack_into(">Q", data, 72, 3)
        (self.path / name).write_bytes(data)
        self.image("check", "-r", "all", name)
        self.assertFalse(self.qemu_info(name)["dirty-flag"])
        self.assertFalse(self.qemu_info(name)["format-specific"]["data"]["corrupt"])

    def test_what_has_nothing_to_check(self):
        self.raw("a.raw")
        self.assertIn("does not support checks", self.fails("image", "check", "a.raw", expect=CANNOT_CHECK))
        self.assertIn("No such file", self.fails("image", "check", "-f", "qcow2", "nothing.qcow2"))
        self.image("check", "-r", "some", "a.raw", expect=USAGE)


if __name__ == "__main__":
    unittest.main()
