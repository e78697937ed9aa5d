"""External data files, extended L2 entries, preallocation: every verb of tidemark image, with qemu-img as the judge."""
import json
import unittest

from bed import KiB, MiB
from image_bed import ImageBed

KINDS = ("data_file={}", "data_file={},data_file_raw=on", "extended_l2=on", "extended_l2=on,cluster_size=16k",
         "extended_l2=on,data_file={}", "cluster_size=2M,extended_l2=on")


def plain(entries):
    """A map of QEMU's, without the places of subclusters that hold nothing, and without what it knows of holes in the file."""
    merged = []
    for entry in entries:
        if not entry["present"]:
            entry.pop("offset", None)
        entry["zero"] = entry["zero"] and not entry["data"]
        last = merged[-1] if merged else {"start": 0, "length": 0}
        goes_on = {key: value + last["length"] if key == "offset" else value for key, value in last.items()}
        if {**goes_on, "start": 0, "length": 0} == {**entry, "start": 0, "length": 0}:
            last["length"] += entry["length"]
        else:
            merged.append(entry)
    return merged


class Layouts(ImageBed):
    def kinds(self):
        """Options, with a name for the data file that nothing has yet."""
        return [(n, options.format(f"data{n}.raw")) for n, options in enumerate(KINDS)]

    def assert_same(self, a, b, formats=("qcow2", "raw")):
        self.assertIn("identical", self.qemu_img("compare", "-f", formats[0], "-F", formats[1], a, b).stdout)


class Making(Layouts):
    def test_as_qemu_makes_them(self):
        for n, options in enumerate(("data_file=x.raw", "data_file=x.raw,data_file_raw=on", "extended_l2=on", "preallocation=metadata",
                                     "preallocation=falloc", "preallocation=full", "preallocation=full,cluster_size=4k",
                                     "preallocation=metadata,extended_l2=on", "data_file=x.raw,preallocation=full", "nocow=off",
                                     "compression_type=zstd,extended_l2=on,lazy_refcounts=on,refcount_bits=8,cluster_size=1M")):
            for maker, name in ((self.qemu_img, "theirs.qcow2"), (self.image, "ours.qcow2")):
                (self.path / "x.raw").unlink(missing_ok=True)
                maker("create", *(["-q"] if name == "theirs.qcow2" else []), "-f", "qcow2", "-o", options, name, "10M")
                self.qemu_check(name)
                info = self.qemu_info(name)
                if name == "theirs.qcow2":
                    theirs, stored = info, self.stored()
                    self.image("info", name)
                    continue
                self.assertEqual(info["format-specific"], theirs["format-specific"], options)
                self.assertEqual(self.json("image", "info", name), info)
                self.assertLess(abs(info["actual-size"] - theirs["actual-size"]), 2 * MiB, options)
                self.assertLess(abs(self.stored() - stored), MiB, options)
            self.scribble("ours.qcow2", size=10 * MiB)
            self.qemu_check("ours.qcow2")

    def stored(self):
        path = self.path / "x.raw"
        return path.stat().st_blocks * 512 if path.exists() else 0

    def test_a_data_file_that_grows_within_a_cluster_above_a_longer_base(self):
        (self.path / "base.raw").write_bytes(b"b" * 300 * KiB)
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=d.raw", "-b", "base.raw", "-F", "raw", "a.qcow2", "100k")
        for size in (110, 128, 200):
            self.image("resize", "a.qcow2", f"{size}k")
            self.assertEqual((self.path / "d.raw").stat().st_size, size * KiB)
            (self.path / "wanted.raw").write_bytes((b"b" * 100 * KiB).ljust(size * KiB, b"\0"))
            self.assert_same("a.qcow2", "wanted.raw")
            self.qemu_check("a.qcow2")

    def test_names_of_data_files(self):
        (self.path / "sub").mkdir()
        self.image("create", "-f", "qcow2", "-o", "data_file=d.raw", "sub/a.qcow2", "1M")
        self.assertTrue((self.path / "sub" / "d.raw").exists())
        self.image("create", "-f", "qcow2", "-o", f"data_file={self.path}/sub/e.raw", "sub/b.qcow2", "1M")
        self.image("create", "-f", "qcow2", "-o", "data_file=sub/f.raw", "sub/c.qcow2", "1M")
        for name in ("b", "c"):
            self.qemu_io(f"sub/{name}.qcow2", "write -P 7 0 64k")
            self.image("convert", f"sub/{name}.qcow2", "out.raw")
            self.assertEqual((self.path / "out.raw").read_bytes()[:64 * KiB], b"\7" * 64 * KiB)
        self.assertIn("beside", self.fails("image", "create", "-f", "qcow2", "-o", "data_file=sub/x.raw", "a.qcow2", "1M"))
        self.assertIn("plain", self.fails("image", "create", "-f", "qcow2", "-o", "data_file=nbd:x", "a.qcow2", "1M"))
        before = (self.path / "sub" / "f.raw").read_bytes()
        self.assertIn("exists", self.fails("image", "create", "-f", "qcow2", "-o", "data_file=f.raw", "sub/x.qcow2", "2M"))
        self.assertEqual((self.path / "sub" / "f.raw").read_bytes(), before)
        self.assertEqual(self.names(), ["out.raw", "sub"])

    def test_one_that_lies_elsewhere_is_described(self):
        (self.path / "sub").mkdir()
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=sub/d.raw", "a.qcow2", "1M")
        self.qemu_io("a.qcow2", "write -P 7 0 64k")
        self.assertIn("beside", self.fails("image", "convert", "a.qcow2", "out.raw"))
        self.image("info", "a.qcow2")
        described = {"driver": "qcow2", "file": {"driver": "file", "filename": "a.qcow2"},
                     "data-file": {"driver": "file", "filename": "sub/d.raw"}}
        self.image("convert", "json:" + json.dumps(described), "out.raw")
        self.assertEqual((self.path / "out.raw").read_bytes()[:64 * KiB], b"\7" * 64 * KiB)

    def test_info_does_not_need_the_data(self):
        self.image("create", "-f", "qcow2", "-o", "data_file=d.raw", "a.qcow2", "1M")
        (self.path / "d.raw").unlink()
        self.assertEqual(self.json("image", "info", "a.qcow2")["format-specific"]["data"]["data-file"], "d.raw")
        self.assertIn("d.raw", self.fails("image", "map", "a.qcow2"))

    def test_refused(self):
        for options, why in (("nocow=on", "nocow"), ("encryption=on", "encryption"), ("encrypt.format=luks", "encryption"),
                             ("extended_l2=on,cluster_size=8k", "at least 16384"), ("data_file_raw=on", "requires data-file"),
                             ("extended_l2=on,compat=0.10", "compatibility"), ("preallocation=much", "expects"), ("extended_l2=1", "expects"),
                             ("data_file=d.raw,compat=0.10", "compatibility")):
            self.assertIn(why, self.fails("image", "create", "-f", "qcow2", "-o", options, "a.qcow2", "10M"), options)
        self.assertIn("nocow", self.fails("image", "create", "-o", "nocow=on", "a.raw", "10M"))
        self.raw("a.raw")
        for options in ("data_file=d.raw", "preallocation=full"):
            self.assertIn("ompression", self.fails("image", "convert", "-c", "-O", "qcow2", "-o", options, "a.raw", "b.qcow2"))
        self.make("base.qcow2", writes=0)
        self.assertIn("extended_l2", self.fails("image", "create", "-f", "qcow2", "-o", "preallocation=full", "-b", "base.qcow2", "-F",
                                                "qcow2", "a.qcow2"))
        self.assertIn("data-file-raw", self.fails("image", "create", "-f", "qcow2", "-o", "data_file=d.raw,data_file_raw=on", "-b",
                                                  "base.qcow2", "-F", "qcow2", "a.qcow2"))
        self.assertEqual(self.names(), ["a.raw", "base.qcow2"])


class Verbs(Layouts):
    def test_convert_to_and_from(self):
        self.make("source.qcow2")
        self.qemu_img("convert", "-O", "raw", "source.qcow2", "source.raw")
        for n, options in self.kinds():
            self.image("convert", "-O", "qcow2", "-o", options, "source.qcow2", f"{n}.qcow2")
            self.qemu_check(f"{n}.qcow2")
            self.assert_same(f"{n}.qcow2", "source.raw")
            self.image("compare", f"{n}.qcow2", "source.raw")
            self.image("convert", f"{n}.qcow2", "back.raw")
            self.assert_same("back.raw", "source.raw", ("raw", "raw"))
            if "data_file_raw" in options:
                self.assert_same(f"data{n}.raw", "source.raw", ("raw", "raw"))
        self.assertEqual([name for name in self.names() if "partial" in name], [])

    def test_check_and_map_what_qemu_wrote(self):
        for n, options in self.kinds():
            name = f"{n}.qcow2"
            self.make(name, "-o", options, seed=n)
            self.image("check", name)
            ours = self.json("image", "map", name)
            for entry in ours:
                entry.pop("compressed", None)
            self.assertEqual(ours, plain(json.loads(self.qemu_img("map", "--output=json", name).stdout)))
            rows = lambda text: [[int(word, 16) for word in row.split()[:3]] + row.split()[3:] for row in text.splitlines()[1:]]
            if "cluster_size=2M" not in options:                       # there QEMU leaves out holes
                self.assertEqual(rows(self.image("map", name).stdout), rows(self.qemu_img("map", name).stdout))

    def test_resize(self):
        for n, options in self.kinds():
            name = f"{n}.qcow2"
            self.make(name, "-o", options, seed=n)
            self.qemu_img("convert", "-O", "raw", name, "r.raw")
            for words in (["+10M"], ["--preallocation=metadata", "+10M"], ["--preallocation", "full", "+5M"],
                          ["--preallocation=falloc", "+64K"], ["--shrink", "20M"], ["64M"]):
                self.image("resize", name, *words)
                if "--preallocation=metadata" not in words:
                    self.image("resize", "r.raw", *words)
                else:
                    self.image("resize", "r.raw", "+10M")
                self.assert_same(name, "r.raw")
                self.qemu_check(name)
            self.scribble(name, seed=n + 50, writes=10)
            self.qemu_check(name)

    def test_what_cannot_get_its_space_stays_as_large_as_it_was(self):
        for form in ("raw", "qcow2"):
            for mode, kind in (("full", "write"), ("falloc", "write-zeroes")):
                self.image("create", "-f", form, "a", "1M")
                self.qemu_io("a", "write -P 1 0 1M", format=form)
                self.qemu_img("bitmap", "--add", "-f", "qcow2", "a", "b") if form == "qcow2" else None
                fault = {"event": "none", "iotype": kind, "errno": 28, "sector": 8192}
                storage = {"driver": "blkdebug", "image": {"driver": "file", "filename": "a"}, "inject-error": [fault]}
                said = "json:" + json.dumps({"driver": form, "file": storage})
                self.assertIn("No space left", self.fails("image", "resize", f"--preallocation={mode}", said, "9M"))
                info = self.json("image", "info", "-f", form, "a")
                self.assertEqual(info["virtual-size"], MiB, (form, mode))
                self.assertLess(info["actual-size"], 2 * MiB, (form, mode))
                self.assertIn("a", self.names())
                if form == "qcow2":
                    self.qemu_check("a")
                    self.assertEqual([b["name"] for b in info["format-specific"]["data"]["bitmaps"]], ["b"])

    def test_space_for_what_a_disk_grows_by(self):
        for name, form in (("a.qcow2", "qcow2"), ("a.raw", "raw")):
            for mode, least in (("falloc", 10), ("full", 10), ("off", 0)):
                self.image("create", "-f", form, name, "1M")
                self.image("resize", "-f", form, f"--preallocation={mode}", name, "11M")
                stored = (self.path / name).stat().st_blocks * 512
                self.assertTrue(least * MiB <= stored <= (least + 1) * MiB + 512 * KiB, (name, mode, stored))
        self.assertIn("shrinking", self.fails("image", "resize", "--shrink", "--preallocation=full", "a.qcow2", "1M"))
        self.assertIn("mode 'metadata'", self.fails("image", "resize", "--preallocation=metadata", "a.raw", "20M"))

    def test_space_for_what_a_disk_above_a_longer_one_grows_by(self):
        (self.path / "base.raw").write_bytes(b"b" * 4 * MiB)
        for options in ("compat=1.1", "compat=0.10", "extended_l2=on", "data_file=d.raw"):
            for mode in ("metadata", "falloc", "full"):
                with self.subTest(options=options, mode=mode):
                    self.qemu_img("create", "-q", "-f", "qcow2", "-o", options, "-b", "base.raw", "-F", "raw", "top.qcow2", "1000k")
                    self.image("resize", f"--preallocation={mode}", "top.qcow2", "6M")
                    (self.path / "wanted.raw").write_bytes((b"b" * 1000 * KiB).ljust(6 * MiB, b"\0"))
                    self.assert_same("top.qcow2", "wanted.raw")
                    self.qemu_check("top.qcow2")
                    told = json.loads(self.qemu_img("map", "--output=json", "top.qcow2").stdout)
                    self.assertGreaterEqual(sum(part["length"] for part in told if part["depth"] == 0), 5 * MiB)

    def test_rebase_and_commit(self):
        for n, options in self.kinds():
            if "data_file_raw" in options:
                continue
            base_options = options.replace(f"data{n}", f"base{n}")
            self.make("base.qcow2", "-o", base_options, seed=n)
            self.make("other.qcow2", seed=n + 10)
            self.image("create", "-f", "qcow2", "-o", options, "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
            self.scribble("top.qcow2", seed=n + 20, writes=15)
            self.qemu_img("convert", "-O", "raw", "top.qcow2", "before.raw")
            self.image("bitmap", "--add", "top.qcow2", "b")
            self.image("rebase", "-b", "other.qcow2", "-F", "qcow2", "top.qcow2")
            self.assert_same("top.qcow2", "before.raw")
            self.image("rebase", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
            self.assertTrue(self.json("image", "commit", "top.qcow2")["emptied"])
            for name in ("top.qcow2", "base.qcow2"):
                self.assert_same(name, "before.raw")
                self.qemu_check(name)
            self.assertFalse([entry for entry in self.json("image", "map", "top.qcow2") if entry["depth"] == 0 and entry["present"]])
            self.assertEqual(self.qemu_info("top.qcow2")["format-specific"]["data"]["bitmaps"][0]["flags"], ["auto"])
            self.scribble("top.qcow2", seed=n + 30)
            self.qemu_check("top.qcow2")

    def test_bitmaps(self):
        for n, options in self.kinds():
            name = f"{n}.qcow2"
            self.make(name, "-o", options, writes=0)
            self.image("bitmap", "--add", "-g", "4K", name, "b")
            self.qemu_io(name, "write -P 1 1M 8k")
            self.image("bitmap", "--add", "--disable", "--merge", "b", name, "c")
            self.qemu_check(name)
            self.qemu_img("bitmap", "--remove", name, "b")
            self.assertEqual([b["name"] for b in self.json("image", "info", name)["format-specific"]["data"]["bitmaps"]], ["c"])
            self.qemu_check(name)

    def test_measure(self):
        self.make("a.qcow2")
        self.image("bitmap", "--add", "a.qcow2", "one")
        self.image("bitmap", "--add", "-g", "4K", "a.qcow2", "another")
        for options in ("extended_l2=on", "preallocation=full", "preallocation=metadata", "extended_l2=on,cluster_size=2M", "data_file=x"):
            for what in (["a.qcow2"], ["--size", "10G"]):
                theirs = json.loads(self.qemu_img("measure", "--output=json", "-O", "qcow2", "-o", options, *what).stdout)
                self.assertEqual(self.json("image", "measure", "-O", "qcow2", "-o", options, *what), theirs, (options, what))


if __name__ == "__main__":
    unittest.main()
