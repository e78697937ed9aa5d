"""What the names of files below an image lead to, for tidemark image and chain: the same as for a daemon, or nowhere."""
import json
import unittest

from bed import KiB, MiB
from image_bed import ImageBed


class JsonNames(ImageBed):
    def setUp(self):
        super().setUp()
        del self.lab.env["TIDEMARK_QMP"]
        (self.path / "b.raw").write_bytes(b"A" * MiB + b"B" * MiB + b"C" * MiB)

    def at(self, name):
        return {"driver": "file", "filename": str(self.path / name)}

    def overlay(self, described, format="raw", name="o.qcow2"):
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "json:" + json.dumps(described), "-F", format, name, "1M")

    def state(self):
        return {file.name: file.read_bytes() for file in self.path.iterdir() if file.suffix in (".raw", ".qcow2")}

    def part(self):
        return {"driver": "raw", "offset": MiB, "size": MiB, "file": self.at("b.raw")}

    def other_names(self):
        """What shows something else than the file does by itself."""
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "b.raw", "-F", "raw", "m.qcow2", "1M")
        qcow2 = {"driver": "qcow2", "file": self.at("m.qcow2")}
        yield self.part(), "raw"
        yield {"driver": "raw", "offset": MiB, "file.driver": "file", "file.filename": str(self.path / "b.raw")}, "raw"
        yield {"driver": "raw", "size": 64 * KiB, "file": self.at("b.raw")}, "raw"
        yield {"driver": "raw", "file": self.part()}, "raw"
        (self.path / "c.raw").write_bytes(b"c" * MiB)
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "m.qcow2", "-F", "qcow2", "l.qcow2")
        yield {**qcow2, "backing": {"driver": "raw", "file": self.at("c.raw")}}, "qcow2"
        yield {"driver": "qcow2", "file": self.at("l.qcow2"), "backing": {**qcow2, "backing": None}}, "qcow2"
        yield {"driver": "raw", "file": qcow2}, "raw"

    def test_what_a_name_says_of_a_part_is_not_thrown_away(self):
        for described, format in self.other_names():
            with self.subTest(described):
                self.overlay(described, format)
                self.qemu_io("o.qcow2", "write -P 1 64k 64k")
                before = self.state()
                for words in (["image", "convert", "o.qcow2", "n.raw"], ["image", "rebase", "-b", "", "o.qcow2"],
                              ["image", "compare", "o.qcow2", "b.raw"], ["image", "commit", "o.qcow2"],
                              ["image", "map", "o.qcow2"], ["image", "info", "--backing-chain", "o.qcow2"],
                              ["chain", "copy", "o.qcow2", "n.qcow2"], ["chain", "commit", "o.qcow2", "[0]"],
                              ["chain", "remove", "o.qcow2", "[0]"], ["chain", "rebase", "o.qcow2", ""],
                              ["snapshot", "delete", "o.qcow2", "1"]):
                    error = self.fails(*words, expect=2 if "compare" in words else 1)
                    self.assertIn("json:", error, words)
                    self.assertEqual(self.state(), before, words)
                said = "json:" + json.dumps({"driver": "qcow2", "file": self.at("o.qcow2")})
                if "backing" not in described:               # by hand: as the daemon opens it
                    self.image("convert", said, "ours")
                    self.qemu_img("convert", "-O", "raw", "o.qcow2", "theirs")
                    self.assertEqual((self.path / "ours").read_bytes(), (self.path / "theirs").read_bytes())

    def test_a_new_image_does_not_name_a_part(self):
        said = "json:" + json.dumps(self.part())
        self.assertIn("json:", self.fails("image", "create", "-f", "qcow2", "-b", said, "-F", "raw", "n.qcow2"))
        self.assertEqual(self.names(), ["b.raw"])

    def test_a_chain_in_the_middle(self):
        self.overlay(self.part(), name="m.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "m.qcow2", "-F", "qcow2", "t.qcow2")
        self.qemu_io("t.qcow2", "write -P 2 256k 64k")
        before = self.state()
        for words in (["chain", "remove", "t.qcow2", "[1]"], ["chain", "pull", "t.qcow2", "[1]"], ["chain", "commit", "t.qcow2", "[1]"],
                      ["image", "commit", "-b", str(self.path / "b.raw"), "t.qcow2"], ["image", "rebase", "-b", "", "t.qcow2"],
                      ["snapshot", "delete", "t.qcow2", "1"], ["snapshot", "delete", "t.qcow2", "2"]):
            self.fails(*words)
            self.assertEqual(self.state(), before, words)

    def test_what_leaves_the_content_alone(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "b.raw", "-F", "raw", "m.qcow2")
        self.qemu_io("m.qcow2", "write -P 7 1M 64k")
        file = {**self.at("m.qcow2"), "locking": "off", "cache": {"direct": False}}
        for described, format in (({"driver": "raw", "file": self.at("b.raw")}, "raw"),
                                  ({"driver": "raw", "offset": 0, "file": self.at("b.raw")}, "raw"),
                                  (self.at("b.raw"), "raw"),
                                  ({"driver": "qcow2", "lazy-refcounts": False, "file": file}, "qcow2"),
                                  ({"file.driver": "file", "file.filename": str(self.path / "m.qcow2"), "driver": "qcow2"}, "qcow2")):
            with self.subTest(described):
                if "file" not in described and "file.driver" not in described:
                    self.qemu_img("create", "-q", "-f", "qcow2", "o.qcow2", "1M")
                    self.qemu_img("rebase", "-u", "-b", "json:" + json.dumps(described), "-F", "file", "o.qcow2")
                else:
                    self.overlay(described, format)
                self.qemu_io("o.qcow2", "write -P 1 64k 64k")
                self.image("convert", "o.qcow2", "ours.raw")
                self.qemu_img("convert", "-O", "raw", "o.qcow2", "theirs.raw")
                self.assertEqual((self.path / "ours.raw").read_bytes(), (self.path / "theirs.raw").read_bytes())


    def as_qemu_reads(self, name="o.qcow2"):
        self.image("convert", name, "ours.raw")
        self.qemu_img("convert", "-O", "raw", name, "theirs.raw")
        self.assertEqual((self.path / "ours.raw").read_bytes(), (self.path / "theirs.raw").read_bytes())

    def test_what_only_tunes_is_not_looked_at(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "b.raw", "-F", "raw", "m.qcow2")
        self.qemu_io("m.qcow2", "write -P 7 1M 64k")
        tuned = {"driver": "qcow2", "node-name": "base", "l2-cache-size": 1048576, "cache-size": "2M", "lazy-refcounts": "off",
                 "cache-clean-interval": "7", "overlap-check": "none", "discard": "unmap", "cache": {"direct": "on", "no-flush": False},
                 "file": {**self.at("m.qcow2"), "node-name": "f", "locking": "auto", "aio": "threads", "read-only": True}}
        flat = {"driver": "qcow2", "refcount-cache-size": 262144, "overlap-check.template": "cached", "cache.direct": "off",
                "file.driver": "file", "file.filename": str(self.path / "m.qcow2"), "file.node-name": "f", "detect-zeroes": "on"}
        raw = {"driver": "raw", "offset": "0", "node-name": "r", "file": {**self.at("b.raw"), "cache.direct": True}}
        for described, format in ((tuned, "qcow2"), (flat, "qcow2"), (raw, "raw")):
            with self.subTest(described):
                self.overlay(described, format)
                self.qemu_io("o.qcow2", "write -P 1 64k 64k")
                self.as_qemu_reads()
                self.assertEqual(len(json.loads(self.image("info", "--backing-chain", "--output=json", "o.qcow2").stdout)),
                                 3 if format == "qcow2" else 2)
                self.image("commit", "o.qcow2")
                self.qemu_check("o.qcow2")
                self.as_qemu_reads()
                self.image("rebase", "-b", "", "o.qcow2")
                self.as_qemu_reads()

    def test_a_name_that_repeats_what_the_images_say(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "b.raw", "-F", "raw", "l.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "l.qcow2", "-F", "qcow2", "m.qcow2")
        self.qemu_io("l.qcow2", "write -P 6 512k 4k")
        self.qemu_io("m.qcow2", "write -P 7 1M 64k")
        raw = {"driver": "raw", "file": self.at("b.raw")}
        below = {"driver": "qcow2", "file": {**self.at("l.qcow2"), "locking": "auto"}, "node-name": "l"}
        for backing in (below, {**below, "backing": raw}):
            self.overlay({"driver": "qcow2", "file": self.at("m.qcow2"), "backing": backing}, "qcow2")
            self.qemu_io("o.qcow2", "write -P 1 64k 4k")
            self.as_qemu_reads()
            info = json.loads(self.image("info", "--backing-chain", "--output=json", "o.qcow2").stdout)
            self.assertEqual([one["filename"].rsplit("/")[-1] for one in info], ["o.qcow2", "m.qcow2", "l.qcow2", "b.raw"])
        self.run_tidemark("chain", "remove", "o.qcow2", "[1]")
        self.image("compare", "o.qcow2", "theirs.raw")

    def test_a_chain_that_is_cut(self):
        """With `backing`: null nothing is below, whatever the image itself says."""
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "b.raw", "-F", "raw", "m.qcow2")
        self.qemu_io("m.qcow2", "write -P 7 1M 4k")
        for cut in ({"backing": None}, {"backing": ""}):
            self.overlay({"driver": "qcow2", "file": self.at("m.qcow2"), **cut}, "qcow2")
            self.qemu_io("o.qcow2", "write -P 1 64k 4k")
            self.as_qemu_reads()
            self.image("compare", "o.qcow2", "theirs.raw")
            info = json.loads(self.image("info", "--backing-chain", "--output=json", "o.qcow2").stdout)
            self.assertEqual(len(info), 2)
            before = self.state()
            for words in (["chain", "show", "o.qcow2"], ["chain", "remove", "o.qcow2", "[1]"], ["chain", "copy", "o.qcow2", "n.qcow2"],
                          ["snapshot", "delete", "o.qcow2", "1"],
                          ["image", "convert", "-O", "qcow2", "-B", "json:" + json.dumps({"driver": "qcow2", "file": self.at("m.qcow2"), **cut}),
                           "-F", "qcow2", "o.qcow2", "n.qcow2"]):
                self.assertIn("without what it stands on", self.fails(*words), words)
                self.assertEqual(self.state(), before, words)
        self.image("commit", "o.qcow2")
        self.as_qemu_reads("o.qcow2")
        self.qemu_img("compare", "o.qcow2", "theirs.raw")
        self.overlay({"driver": "qcow2", "file": self.at("m.qcow2"), "backing": None}, "qcow2")
        self.qemu_img("convert", "-O", "raw", "o.qcow2", "want.raw")
        self.image("rebase", "-b", "m.qcow2", "-F", "qcow2", "o.qcow2")
        self.image("compare", "o.qcow2", "want.raw")
        self.run_tidemark("chain", "show", "o.qcow2")

    def test_a_base_that_reads_otherwise_there(self):
        """convert -B leaves out what the layer reads in the source's chain, which is what the name alone reads, or it is refused."""
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "b.raw", "-F", "raw", "m.qcow2")
        self.qemu_io("m.qcow2", "write -P 7 1M 4k")
        words = ["image", "convert", "-O", "qcow2", "-B", "m.qcow2", "-F", "qcow2", "o.qcow2", "n.qcow2"]
        for described in ({"driver": "qcow2", "file": self.at("m.qcow2"), "backing": None}, {"driver": "raw", "file": self.at("m.qcow2")}):
            self.overlay(described, described["driver"])
            self.qemu_io("o.qcow2", "write -P 1 64k 4k")
            before = self.state()
            self.assertIn("does not read as it does there", self.fails(*words))
            self.assertEqual(self.state(), before)
        self.overlay({"driver": "qcow2", "file": self.at("m.qcow2")}, "qcow2")
        self.qemu_io("o.qcow2", "write -P 1 64k 4k")
        self.assertIn("does not read as it does there", self.fails(*words[:7], "raw", *words[8:]))
        self.run_tidemark(*words)
        self.assertIn("identical", self.qemu_img("compare", "o.qcow2", "n.qcow2").stdout)
        (self.path / "n.qcow2").unlink()
        cut = {"driver": "qcow2", "file": self.at("o.qcow2"), "backing": {"driver": "qcow2", "file": self.at("m.qcow2"), "backing": None}}
        other = {**cut, "backing": {"driver": "qcow2", "file": self.at("m.qcow2"), "backing": {"driver": "raw", "offset": MiB, "file": self.at("b.raw")}}}
        for source in (cut, other):
            self.assertIn("does not read as it does there", self.fails(*words[:8], "json:" + json.dumps(source), "n.qcow2"))

    def test_an_image_over_itself_is_told(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "j.qcow2", "1M")
        name = "json:" + json.dumps({"driver": "qcow2", "file": self.at("j.qcow2"), "backing": None})
        self.qemu_img("rebase", "-u", "-b", name, "-F", "qcow2", "j.qcow2")
        self.assertIn("infinite loop", self.fails("image", "info", "--backing-chain", "j.qcow2"))

    def test_an_end_that_is_said_twice(self):
        """An image without anything below it: the name says so, too."""
        self.qemu_img("convert", "-O", "qcow2", "-f", "raw", "b.raw", "m.qcow2")
        self.overlay({"driver": "qcow2", "file": self.at("m.qcow2"), "backing": None}, "qcow2")
        self.qemu_io("o.qcow2", "write -P 1 64k 4k")
        self.as_qemu_reads()
        self.run_tidemark("chain", "copy", "o.qcow2", "n.qcow2")
        self.image("compare", "n.qcow2", "theirs.raw")
        self.run_tidemark("snapshot", "delete", "o.qcow2", "1")
        self.image("compare", "o.qcow2", "theirs.raw")


class OddNames(ImageBed):
    """Files that are called as if they were something else, reached through a directory."""

    def setUp(self):
        super().setUp()
        del self.lab.env["TIDEMARK_QMP"]
        names = ["./nbd:foo.qcow2", "./json:x.qcow2", "./file:y.qcow2", "top.qcow2"]
        for n, name in enumerate(names):
            self.qemu_img("create", "-q", "-f", "qcow2", *(["-b", names[n - 1], "-F", "qcow2"] if n else []), name, "4M")
            self.qemu_io(name, f"write -P {n + 1} {n * 512}k 600k")
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "want.raw")

    def holds(self, name="top.qcow2"):
        self.assertIn("identical", self.qemu_img("compare", "-F", "raw", name, "want.raw").stdout)

    def test_image_verbs(self):
        self.image("compare", "top.qcow2", "want.raw")
        self.image("map", "top.qcow2")
        self.assertEqual(len(json.loads(self.image("info", "--backing-chain", "--output=json", "top.qcow2").stdout)), 4)
        self.image("convert", "-O", "qcow2", "-B", "./json:x.qcow2", "-F", "qcow2", "top.qcow2", "./nbd:new.qcow2")
        self.holds("./nbd:new.qcow2")
        self.image("create", "-f", "qcow2", "-b", "./nbd:new.qcow2", "-F", "qcow2", "./fat:more.qcow2")
        self.image("compare", "./fat:more.qcow2", "want.raw")
        self.holds("./fat:more.qcow2")
        self.image("snapshot", "-c", "s", "./nbd:new.qcow2")
        self.image("convert", "-l", "s", "./nbd:new.qcow2", "./json:out.raw")
        self.image("compare", "./json:out.raw", "want.raw")
        self.image("rebase", "-b", "./nbd:foo.qcow2", "-F", "qcow2", "top.qcow2")
        self.holds()
        self.image("commit", "top.qcow2")
        self.holds()

    def test_chain_and_snapshot_verbs(self):
        self.run_tidemark("chain", "copy", "top.qcow2", "./nbd:copy.qcow2")
        self.holds("./nbd:copy.qcow2")
        self.run_tidemark("chain", "remove", "top.qcow2", "[1]")
        self.holds()
        self.run_tidemark("snapshot", "create", "--name", "s", "./nbd:copy.qcow2=./nbd:over.qcow2")
        self.holds("./nbd:over.qcow2")
        self.run_tidemark("snapshot", "delete", "top.qcow2", "1")
        self.holds()
        self.run_tidemark("chain", "rebase", "top.qcow2", "")
        self.holds()

    def test_a_name_below_an_image_leads_to_no_server(self):
        """./nbd:HOST is a file, there or not."""
        self.qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "./nbd:unix:n.sock", "-F", "raw", "evil.qcow2", "1M")
        self.raw("r.raw", MiB)
        self.lab.start("qemu-nbd", "-f", "raw", "-k", str(self.path / "n.sock"), "-t", "r.raw")
        self.until(lambda: (self.path / "n.sock").exists(), "qemu-nbd")
        self.assertIn("No such file", self.fails("image", "convert", "evil.qcow2", "out.raw"))


class Loops(ImageBed):
    def setUp(self):
        super().setUp()
        self.make("b.qcow2", size="4M", writes=0)
        self.qemu_io("b.qcow2", "write -P 1 0 1M")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "t.qcow2")
        (self.path / "link").symlink_to("b.qcow2")
        self.before = {name: (self.path / name).read_bytes() for name in self.names()}

    def refused(self, *words):
        self.assertRegex(self.fails("image", *words), r"'\S+' stands on '\S+' itself, or is it", words)
        self.assertEqual({name: (self.path / name).read_bytes() for name in self.names()}, self.before, words)

    def test_a_new_image_on_what_it_replaces(self):
        for backing in ("b.qcow2", "./b.qcow2", str(self.path / "b.qcow2"), "link", "t.qcow2"):
            for words in ([], ["4M"], ["-u", "4M"]):
                self.refused("create", "-f", "qcow2", "-b", backing, "-F", "qcow2", *words[:-1], "b.qcow2", *words[-1:])
        self.refused("create", "-f", "qcow2", "-o", "backing_file=b.qcow2,backing_fmt=qcow2", "link")
        for target in ("b.qcow2", "t.qcow2"):
            self.refused("convert", "-U", "-O", "qcow2", "-B", "b.qcow2" if target == "b.qcow2" else "t.qcow2", "-F", "qcow2", "t.qcow2", target)
        self.image("create", "-u", "-f", "qcow2", "-b", "later.qcow2", "-F", "qcow2", "n.qcow2", "4M")

    def test_what_is_named_is_there_and_has_a_format(self):
        for format in ("raw", "qcow2"):
            self.assertIn("nope", self.fails("image", "amend", "-o", f"backing_file=nope,backing_fmt={format}", "t.qcow2"))
        self.assertIn("without its format", self.fails("image", "create", "-f", "qcow2", "-u", "-b", "b.qcow2", "n.qcow2", "1M"))
        self.assertEqual(self.names(), sorted(self.before))
        for name, content in self.before.items():
            self.assertTrue((self.path / name).read_bytes().startswith(content), name)     # its last cluster may be completed

    def test_an_image_that_is_to_stand_on_itself(self):
        for backing in ("b.qcow2", "link", "t.qcow2"):
            for how in ([], ["-U"], ["-u"]):
                self.refused("rebase", *how, "-b", backing, "-F", "qcow2", "b.qcow2")
        self.refused("amend", "-o", "backing_file=t.qcow2,backing_fmt=qcow2", "b.qcow2")
        self.image("rebase", "-u", "-b", "later.qcow2", "-F", "qcow2", "t.qcow2")


if __name__ == "__main__":
    unittest.main()
