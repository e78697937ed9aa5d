"""tidemark image: what it says of images, and makes and resizes, with qemu-img as the judge."""
import json
import unittest

from bed import DONE, MiB, processes
from image_bed import ImageBed


class Info(ImageBed):
    def test_as_qemu_img_says(self):
        for options in ((), ("-o", "compat=0.10"), ("-o", "compression_type=zstd,cluster_size=4k,lazy_refcounts=on"),
                        ("-o", "refcount_bits=64")):
            name = self.make("a.qcow2", *options)
            theirs = self.qemu_info(name)
            ours = self.json("image", "info", name)
            self.assertEqual(ours, theirs, options)

    def test_output_as_qemu_img_s_users_ask_for_it(self):
        self.make("a.qcow2", writes=0)
        self.assertEqual(json.loads(self.image("info", "--output=json", "a.qcow2").stdout), self.qemu_info("a.qcow2"))
        self.assertIn("file format: qcow2", self.image("info", "--output", "human", "a.qcow2").stdout)

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
        for words in (["-o", "cluster_size=1000"], ["-o", "refcount_bits=3"], ["-o", "nonsense=1"], ["-o", "extended_l2=on,cluster_size=4k"]):
            self.fails("image", "create", "-f", "qcow2", *words, "a.qcow2", "10M")
        self.assertIn("needs a size", self.fails("image", "create", "a.qcow2"))
        self.serve("a.qcow2=disk")
        self.assertIn("lock", self.fails("image", "create", "a.qcow2", "10M"))
        self.assertEqual((self.path / "a.qcow2").read_bytes(), before)
        self.assertEqual([name for name in self.names() if "partial" in name], [])


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
