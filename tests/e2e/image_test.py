"""tidemark image: what it makes and says, with qemu-img as the judge."""
import json
import random
import signal
import struct
import subprocess
import unittest

from bed import DONE, FAILED, INTERRUPTED, USAGE, KiB, MiB, Bed, first_difference, processes

CORRUPT, LEAKS, CANNOT_CHECK = 2, 3, 63


class ImageBed(Bed):
    def image(self, *words, expect=DONE):
        return self.run_tidemark("image", *words, expect=expect)

    def qemu_img(self, *words, ok=(0,)):
        return self.lab.run("qemu-img", *words, ok=ok, timeout=60)

    def qemu_io(self, name, *commands, format="qcow2"):
        self.lab.run("qemu-io", "-f", format, *(word for command in commands for word in ("-c", command)), name, timeout=60)

    def qemu_info(self, name, *words):
        return json.loads(self.qemu_img("info", "--output=json", *words, name).stdout)

    def qemu_check(self, name, expect=DONE):
        done = self.qemu_img("check", "--output=json", name, ok=None)
        self.assertEqual(done.returncode, expect, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def make(self, name, *options, size="64M", seed=1, writes=40):
        """An image by qemu-img, written to here and there."""
        self.qemu_img("create", "-q", "-f", "qcow2", *options, name, size)
        self.scribble(name, seed, writes)
        return name

    def scribble(self, name, seed=1, writes=40, size=64 * MiB):
        rng = random.Random(seed)
        commands = []
        for n in range(writes):
            at, length = rng.randrange(size // 4096) * 4096, rng.choice([4, 64, 64, 256]) * KiB
            length = min(length, size - at)
            kind = rng.choice(["write -P %d" % rng.randrange(1, 256)] * 4 + ["write -z", "write -z -u", "discard"])
            commands.append(f"{kind} {at} {length}")
        self.qemu_io(name, *commands)

    def names(self):
        return sorted(entry.name for entry in self.path.iterdir())


class Info(ImageBed):
    def test_as_qemu_img_says(self):
        for options in ((), ("-o", "compat=0.10"), ("-o", "compression_type=zstd,cluster_size=4k,lazy_refcounts=on"),
                        ("-o", "refcount_bits=64")):
            name = self.make("a.qcow2", *options)
            theirs = self.qemu_info(name)
            ours = self.json("image", "info", name)
            self.assertEqual(ours, theirs, options)

    def test_chain(self):
        self.make("base.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "mid.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2")
        self.assertEqual(self.json("image", "info", "--backing-chain", "top.qcow2"), self.qemu_info("top.qcow2", "--backing-chain"))
        text = self.image("info", "--backing-chain", "top.qcow2").stdout
        self.assertEqual(text.count("image: "), 3)
        self.assertIn("backing file: mid.qcow2", text)

    def test_what_cannot_be(self):
        self.assertIn("No such file", self.fails("image", "info", "nothing.qcow2"))
        self.qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "b.qcow2", "-F", "qcow2", "a.qcow2", "1M")
        self.qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2", "1M")
        self.assertIn("infinite loop", self.fails("image", "info", "--backing-chain", "a.qcow2"))
        self.assertIn("Unknown protocol 'ftp'", self.fails("image", "info", "ftp://host/x"))

    def test_an_image_in_use(self):
        self.make("a.qcow2")
        self.serve("a.qcow2=disk")
        self.assertIn("lock", self.fails("image", "info", "a.qcow2"))
        self.image("info", "-U", "a.qcow2")


class Create(ImageBed):
    def test_formats_and_options(self):
        for options in ("", "compat=0.10", "cluster_size=512", "cluster_size=2M,refcount_bits=1", "compression_type=zstd",
                        "lazy_refcounts=on"):
            self.image("create", "-f", "qcow2", *(["-o", options] if options else []), "a.qcow2", "10M")
            self.qemu_img("create", "-q", "-f", "qcow2", *(["-o", options] if options else []), "b.qcow2", "10M")
            ours, theirs = self.qemu_info("a.qcow2"), self.qemu_info("b.qcow2")
            for each in (ours, theirs):
                del each["filename"], each["actual-size"]
            self.assertEqual(ours, theirs)
            self.qemu_check("a.qcow2")
        self.image("create", "a.raw", "1000000")
        self.assertEqual((self.path / "a.raw").stat().st_size, 1000448)
        self.image("create", "-o", "preallocation=full", "a.raw", "1M")
        self.assertGreaterEqual((self.path / "a.raw").stat().st_blocks * 512, MiB)
        self.assertEqual(self.names(), ["a.qcow2", "a.raw", "b.qcow2"])

    def test_over_a_backing_file(self):
        self.make("base.qcow2", size="10M", writes=0)
        self.image("create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        info = self.qemu_info("top.qcow2")
        self.assertEqual((info["virtual-size"], info["backing-filename"], info["backing-filename-format"]),
                         (10 * MiB, "base.qcow2", "qcow2"))
        self.assertIn("without its format", self.fails("image", "create", "-f", "qcow2", "-b", "base.qcow2", "x.qcow2"))
        self.assertIn("No such file", self.fails("image", "create", "-f", "qcow2", "-b", "no.qcow2", "-F", "qcow2", "x.qcow2"))
        self.image("create", "-u", "-f", "qcow2", "-b", "no.qcow2", "-F", "qcow2", "y.qcow2", "1M")
        self.assertNotIn("x.qcow2", self.names())

    def test_what_is_refused_leaves_what_was_there(self):
        self.make("a.qcow2")
        before = (self.path / "a.qcow2").read_bytes()
        for words in (["-o", "cluster_size=1000"], ["-o", "refcount_bits=3"], ["-o", "nonsense=1"], ["-o", "extended_l2=on"]):
            self.fails("image", "create", "-f", "qcow2", *words, "a.qcow2", "10M")
        self.assertIn("needs a size", self.fails("image", "create", "a.qcow2"))
        self.serve("a.qcow2=disk")
        self.assertIn("lock", self.fails("image", "create", "a.qcow2", "10M"))
        self.assertEqual((self.path / "a.qcow2").read_bytes(), before)
        self.assertEqual([name for name in self.names() if "partial" in name], [])


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


class Map(ImageBed):
    def assert_map(self, name, *words):
        theirs = json.loads(self.qemu_img("map", "--output=json", *words, name).stdout)
        ours = self.json("image", "map", *words, name)
        for entry in ours:
            entry.pop("compressed", None)
        self.assertEqual(ours, theirs)
        return ours

    def test_as_qemu_img_says(self):
        self.make("base.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "70M")
        self.scribble("top.qcow2", seed=2)
        entries = self.assert_map("top.qcow2")
        self.assertGreater(len(entries), 20)
        self.assert_map("top.qcow2", "-s", "1M", "-l", "20M")
        text, theirs = self.image("map", "top.qcow2").stdout, self.qemu_img("map", "top.qcow2").stdout
        rows = [[int(row.split()[0], 16), int(row.split()[1], 16)] for row in theirs.splitlines()[1:]]
        self.assertEqual([[int(row.split()[0], 16), int(row.split()[1], 16)] for row in text.splitlines()[1:]], rows)

    def test_raw_and_compressed(self):
        self.raw("a.raw")
        self.assertEqual(sum(entry["length"] for entry in self.assert_map("a.raw") if entry["data"]), 6 * MiB)
        self.qemu_img("convert", "-c", "-O", "qcow2", "a.raw", "c.qcow2")
        entries = self.json("image", "map", "c.qcow2")
        self.assertEqual(sum(entry["length"] for entry in entries if entry["data"]), 6 * MiB)
        self.assertIn("ends at", self.fails("image", "map", "-s", "1G", "a.raw"))


class Compare(ImageBed):
    def test_verdicts(self):
        self.make("a.qcow2")
        self.qemu_img("convert", "-O", "raw", "a.qcow2", "b.raw")
        self.assertEqual(self.image("compare", "a.qcow2", "b.raw").stdout, "Images are identical.\n")
        for at in (12345 * 512, 0, 64 * MiB - 512, 33 * MiB + 7):
            with open(self.path / "b.raw", "r+b") as file:
                file.seek(at)
                was = file.read(1)
                file.seek(at)
                file.write(bytes([was[0] ^ 1]))
            done = self.image("compare", "a.qcow2", "b.raw", expect=1)
            self.assertEqual(done.stdout, f"Content mismatch at offset {at}!\n")
            self.assertEqual(self.json("image", "compare", "b.raw", "a.qcow2", expect=1)["content-mismatch"], at)
            with open(self.path / "b.raw", "r+b") as file:
                file.seek(at)
                file.write(was)

    def test_sizes(self):
        self.raw("a.raw", size=8 * MiB)
        with open(self.path / "b.raw", "wb") as file:
            file.write((self.path / "a.raw").read_bytes())
            file.truncate(9 * MiB)
        self.assertIn("Warning: Image size mismatch!", self.image("compare", "a.raw", "b.raw").stdout)
        self.image("compare", "-s", "a.raw", "b.raw", expect=1)
        with open(self.path / "b.raw", "r+b") as file:
            file.seek(9 * MiB - 1)
            file.write(b"x")
        self.assertIn(f"offset {9 * MiB - 1}!", self.image("compare", "a.raw", "b.raw", expect=1).stdout)

    def test_an_error_is_no_difference(self):
        self.raw("a.raw")
        self.fails("image", "compare", "a.raw", "nothing.raw", expect=2)


class Convert(ImageBed):
    def test_any_to_any(self):
        self.make("base.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "70M")
        self.scribble("top.qcow2", seed=3)
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "top.raw")
        for source in ("top.qcow2", "top.raw"):
            for words in (["-O", "raw"], ["-O", "raw", "-S", "0"], ["-O", "qcow2"], ["-O", "qcow2", "-c"],
                          ["-O", "qcow2", "-c", "-o", "compression_type=zstd,cluster_size=1M"],
                          ["-O", "qcow2", "-o", "compat=0.10,cluster_size=4k"], ["-O", "qcow2", "-S", "1M", "-m", "1"],
                          ["-O", "qcow2", "-o", "cluster_size=512", "--direct"]):
                report = self.json("image", "convert", *words, source, "out")
                self.assertEqual(report["virtual-size"], 70 * MiB)
                form = words[1]
                self.assertIn("identical", self.qemu_img("compare", "-F", form, source, "out").stdout, words)
                if form == "qcow2":
                    self.qemu_check("out")
        self.assertEqual([name for name in self.names() if "partial" in name], [])

    def test_sparse(self):
        self.raw("a.raw")
        with open(self.path / "a.raw", "r+b") as file:
            file.write(bytes(2 * MiB))
        self.image("convert", "a.raw", "b.raw")
        self.assertEqual((self.path / "b.raw").stat().st_blocks * 512, 4 * MiB)
        self.image("convert", "-S", "0", "a.raw", "b.raw")
        self.assertGreaterEqual((self.path / "b.raw").stat().st_blocks * 512, 8 * MiB)
        self.assertEqual((self.path / "a.raw").read_bytes(), (self.path / "b.raw").read_bytes())

    def test_on_the_same_base(self):
        self.make("base.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        self.scribble("top.qcow2", seed=4, writes=10)
        self.image("convert", "-O", "qcow2", "-o", "cluster_size=128k", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "out.qcow2")
        self.assertIn("identical", self.qemu_img("compare", "top.qcow2", "out.qcow2").stdout)
        self.assertEqual(self.qemu_info("out.qcow2")["backing-filename"], "base.qcow2")
        self.assertLess((self.path / "out.qcow2").stat().st_blocks, (self.path / "base.qcow2").stat().st_blocks)
        self.raw("other.raw")
        self.assertIn("is not below", self.fails("image", "convert", "-O", "qcow2", "-b", "other.raw", "-F", "raw", "top.qcow2", "x.qcow2"))

    def test_several(self):
        self.raw("a.raw", seed=1)
        self.raw("b.raw", size=1 * MiB, seed=2)
        self.image("convert", "a.raw", "b.raw", "a.raw", "out.raw")
        a, b = (self.path / "a.raw").read_bytes(), (self.path / "b.raw").read_bytes()
        self.assertEqual(first_difference((self.path / "out.raw").read_bytes(), a + b + a), None)

    def test_to_and_from_nbd(self):
        self.make("a.qcow2")
        with open(self.path / "t.raw", "wb") as file:
            file.write(random.Random(9).randbytes(64 * MiB))
        self.serve("a.qcow2=source", "t.raw=target")
        source, target = (f"nbd+unix:///{name}?socket={self.path}/nbd.sock" for name in ("source", "target"))
        self.image("convert", source, "copy.raw")
        self.image("convert", "-n", "copy.raw", target)
        self.image("compare", source, target)
        self.image("convert", "-O", "qcow2", "copy.raw", target)
        self.image("compare", "-F", "qcow2", "copy.raw", target)
        self.lab.run("qemu-img", "compare", "-F", "raw", "copy.raw", source, timeout=60)

    def test_into_an_image_that_is_there(self):
        self.make("a.qcow2")
        self.make("t.qcow2", "-o", "cluster_size=256k", seed=5)
        self.image("convert", "-n", "-O", "qcow2", "a.qcow2", "t.qcow2")
        self.assertIn("identical", self.qemu_img("compare", "a.qcow2", "t.qcow2").stdout)
        self.qemu_check("t.qcow2")
        self.raw("small.raw")
        self.assertIn("has 8388608 bytes", self.fails("image", "convert", "-n", "a.qcow2", "small.raw"))

    def test_what_is_refused_leaves_what_was_there(self):
        self.raw("a.raw")
        before = (self.path / "a.raw").read_bytes()
        self.fails("image", "convert", "a.raw", "a.raw")
        self.fails("image", "convert", "-c", "a.raw", "b.raw")
        self.fails("image", "convert", "a.raw", "nowhere/b.raw")
        self.fails("image", "convert", "nothing.raw", "a.raw")
        self.assertEqual((self.path / "a.raw").read_bytes(), before)
        self.assertEqual(self.names(), ["a.raw"])

    def slow(self, *words):
        process = self.lab.start(self.tidemark, "image", "convert", "-r", "1M", "-m", "1", *words,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return process

    def test_interrupted(self):
        self.raw("a.raw", size=64 * MiB)
        (self.path / "t.raw").write_bytes(b"before")
        process = self.slow("a.raw", "t.raw")
        self.until(lambda: (self.path / "t.raw.tidemark-partial").exists() and self.catches(process, signal.SIGINT), "a file under way")
        process.send_signal(signal.SIGINT)
        status, _, err = self.end_of(process)
        self.assertEqual((status, err), (INTERRUPTED, "tidemark: interrupted; nothing was left behind\n"))
        self.assertEqual((self.path / "t.raw").read_bytes(), b"before")
        self.assertEqual(self.names(), ["a.raw", "t.raw"])

    def test_killed(self):
        self.raw("a.raw", size=64 * MiB)
        process = self.slow("-O", "qcow2", "a.raw", "t.qcow2")
        self.until(lambda: (self.path / "t.qcow2.tidemark-partial").exists(), "a file under way")
        process.kill()
        self.end_of(process)
        self.assertNotIn("t.qcow2", self.names())
        self.image("convert", "-O", "qcow2", "a.raw", "t.qcow2")
        self.assertEqual(self.names(), ["a.raw", "t.qcow2"])

    def test_half_an_image_in_place_does_not_look_whole(self):
        self.raw("a.raw", size=64 * MiB)
        with open(self.path / "t.raw", "wb") as file:
            file.write(random.Random(3).randbytes(64 * MiB))
        process = self.slow("-n", "a.raw", "t.raw")
        content = lambda: (self.path / "t.raw").read_bytes()
        source = (self.path / "a.raw").read_bytes()
        self.until(lambda: content()[4 * MiB:5 * MiB] == source[4 * MiB:5 * MiB], "some of it written")
        process.kill()
        self.end_of(process)
        self.assertEqual(content()[:2 * MiB], bytes(2 * MiB))
        self.image("convert", "-n", "a.raw", "t.raw")
        self.assertEqual(first_difference(content(), source), None)

    def test_progress_on_a_terminal(self):
        self.raw("a.raw", size=64 * MiB)
        process, terminal = self.start_on_terminal("image", "convert", "-r", "16M", "a.raw", "b.raw")
        self.until_shown(terminal, r"convert \[=+ *\] +\d+%")
        self.assertEqual(self.end_of(process)[0], DONE)


class Measure(ImageBed):
    def test_as_qemu_img_says(self):
        self.make("a.qcow2")
        for words in (["-O", "raw"], ["-O", "qcow2"], ["-O", "qcow2", "-o", "cluster_size=4k"],
                      ["-O", "qcow2", "-o", "cluster_size=2M,refcount_bits=1"], ["-O", "qcow2", "-o", "refcount_bits=64"]):
            for what in (["a.qcow2"], ["--size", "10T"], ["--size", "0"], ["--size", "512M"]):
                if words[-1] == "cluster_size=4k" and what[-1] == "10T":
                    self.assertIn("too large", self.fails("image", "measure", *words, *what))
                    continue
                theirs = json.loads(self.qemu_img("measure", "--output=json", *words, *what).stdout)
                theirs.pop("bitmaps", None)
                self.assertEqual(self.json("image", "measure", *words, *what), theirs, (words, what))
        self.fails("image", "measure", "-O", "qcow2")


class Resize(ImageBed):
    def test_up_and_down(self):
        self.make("a.qcow2")
        self.qemu_img("convert", "-O", "raw", "a.qcow2", "a.raw")
        for words in (["+6M"], ["100M"], ["--shrink", "30M"], ["--shrink", "--", "-10M"], ["64M"]):
            for name in ("a.qcow2", "a.raw"):
                self.image("resize", name, *words)
            self.assertEqual(self.qemu_img("compare", "-F", "raw", "a.qcow2", "a.raw").stdout, "Images are identical.\n")
            self.qemu_check("a.qcow2")
        self.assertEqual(self.qemu_info("a.qcow2")["virtual-size"], 64 * MiB)
        self.assertIn("--shrink", self.fails("image", "resize", "a.qcow2", "1M"))
        self.fails("image", "resize", "a.qcow2", "much")

    def test_what_is_below_does_not_appear(self):
        self.make("base.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "8M")
        self.image("resize", "top.qcow2", "64M")
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "top.raw")
        self.assertEqual((self.path / "top.raw").read_bytes()[8 * MiB:], bytes(56 * MiB))


class Rebase(ImageBed):
    def chain(self):
        self.make("base.qcow2", seed=1)
        self.make("other.qcow2", seed=2, size="40M", writes=0)
        self.scribble("other.qcow2", seed=2, size=40 * MiB)
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "70M")
        self.scribble("top.qcow2", seed=3, writes=15)
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "before.raw")

    def assert_as_before(self, backing):
        self.assertIn("identical", self.qemu_img("compare", "top.qcow2", "before.raw").stdout)
        self.assertEqual(self.qemu_info("top.qcow2").get("backing-filename"), backing)
        self.qemu_check("top.qcow2")

    def test_safe(self):
        self.chain()
        self.image("rebase", "-b", "other.qcow2", "-F", "qcow2", "top.qcow2")
        self.assert_as_before("other.qcow2")
        self.image("rebase", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        self.assert_as_before("base.qcow2")
        self.image("rebase", "-b", "", "top.qcow2")
        self.assert_as_before(None)
        self.image("rebase", "-b", "other.qcow2", "-F", "qcow2", "top.qcow2")
        self.assert_as_before("other.qcow2")

    def test_unsafe(self):
        self.chain()
        for name in ("a", "a-longer-name.qcow2", "b", str(self.path / ("x" * 200)), "c.qcow2"):
            (self.path / "base.qcow2").rename(self.path / name)
            self.image("rebase", "-u", "-b", name, "-F", "qcow2", "top.qcow2")
            self.assert_as_before(name)
            (self.path / name).rename(self.path / "base.qcow2")
        self.assertIn("too long", self.fails("image", "rebase", "-u", "-b", "x" * 1024, "-F", "qcow2", "top.qcow2"))

    def test_refused(self):
        self.chain()
        self.assertIn("without its format", self.fails("image", "rebase", "-b", "other.qcow2", "top.qcow2"))
        self.assertIn("No such file", self.fails("image", "rebase", "-b", "no.qcow2", "-F", "qcow2", "top.qcow2"))
        self.fails("image", "rebase", "-b", "top.qcow2", "-F", "qcow2", "top.qcow2")
        self.assert_as_before("base.qcow2")

    def test_extensions_stay(self):
        self.chain()
        self.qemu_img("bitmap", "--add", "top.qcow2", "bitmap")
        self.image("rebase", "-u", "-b", str(self.path / "base.qcow2"), "-F", "qcow2", "top.qcow2")
        self.assertEqual(self.qemu_info("top.qcow2")["format-specific"]["data"]["bitmaps"][0]["name"], "bitmap")
        self.qemu_check("top.qcow2")


class Commit(ImageBed):
    def chain(self):
        self.make("base.qcow2", seed=1)
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "mid.qcow2", "66M")
        self.scribble("mid.qcow2", seed=2)
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2", "70M")
        self.scribble("top.qcow2", seed=3)
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "before.raw")

    def assert_holds(self, name):
        self.assertIn("identical", self.qemu_img("compare", name, "before.raw").stdout)
        self.qemu_check(name)

    def test_one_layer(self):
        self.chain()
        (self.path / "top.qcow2").chmod(0o640)
        self.assertTrue(self.json("image", "commit", "top.qcow2")["emptied"])
        self.assert_holds("mid.qcow2")
        self.assert_holds("top.qcow2")
        self.assertEqual((self.path / "top.qcow2").stat().st_mode & 0o777, 0o640)
        self.assertLess((self.path / "top.qcow2").stat().st_blocks * 512, 512 * KiB)
        self.scribble("top.qcow2", seed=4)
        self.qemu_check("top.qcow2")

    def test_to_the_base(self):
        self.chain()
        self.image("commit", "-b", "base.qcow2", "top.qcow2")
        self.assert_holds("base.qcow2")

    def test_kept(self):
        self.chain()
        before = (self.path / "top.qcow2").read_bytes()
        self.image("commit", "-d", "top.qcow2")
        self.assert_holds("mid.qcow2")
        self.assertEqual((self.path / "top.qcow2").read_bytes(), before)

    def test_snapshots_stay(self):
        self.chain()
        self.qemu_img("snapshot", "-c", "kept", "top.qcow2")
        self.scribble("top.qcow2", seed=9, writes=5)
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "before.raw")
        self.image("commit", "top.qcow2")
        self.assert_holds("mid.qcow2")
        self.assert_holds("top.qcow2")
        self.assertIn("kept", self.qemu_img("snapshot", "-l", "top.qcow2").stdout)

    def test_refused(self):
        self.make("base.qcow2")
        self.assertIn("does not have a backing file", self.fails("image", "commit", "base.qcow2"))
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        self.assertIn("Did not find", self.fails("image", "commit", "-b", "other.qcow2", "top.qcow2"))
        self.serve("base.qcow2=disk")
        self.assertIn("lock", self.fails("image", "commit", "top.qcow2"))


class Guide(ImageBed):
    def test_its_examples(self):
        text = (processes.ROOT / "docs" / "guide" / "images.md").read_text()
        commands = text.partition("## Examples")[2].partition("```\n")[2].partition("```")[0].splitlines()
        self.assertGreater(len(commands), 10)
        for command in commands:
            done = self.lab.run("bash", "-c", command.replace("tidemark", str(self.tidemark), 1), ok=None, timeout=60)
            self.assertEqual((done.returncode, done.stderr), (DONE, ""), command)


if __name__ == "__main__":
    unittest.main()
