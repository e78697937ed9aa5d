"""tidemark image snapshot, and reading one: what we made QEMU uses, and the other way round."""
import json
import unittest

from bed import USAGE, KiB, MiB
from image_bed import ImageBed


class Snapshots(ImageBed):
    def taken(self, name, snapshots, take):
        """Snapshots of an image that is written to between; what it read as each time is in SNAPSHOT.raw."""
        for n, snapshot in enumerate(snapshots):
            self.scribble(name, seed=n + 10, writes=15)
            self.qemu_img("convert", "-O", "raw", name, f"{snapshot}.raw")
            take(snapshot, name)
        self.scribble(name, seed=99, writes=15)
        self.qemu_img("convert", "-O", "raw", name, "now.raw")

    def ours(self, snapshot, name):
        self.image("snapshot", "-c", snapshot, name)

    def theirs(self, snapshot, name):
        self.qemu_img("snapshot", "-c", snapshot, name)

    def listed(self, name):
        """What both say of an image's snapshots; they have to agree."""
        info = self.json("image", "info", name)
        self.assertEqual(info, self.qemu_info(name))
        listed = self.json("image", "snapshot", "-l", name)
        for entry in listed:
            self.assertGreater(entry.pop("disk-size"), 0)
        self.assertEqual(listed, info.get("snapshots", []))
        return [entry["name"] for entry in listed]

    def assert_reads(self, name, as_file):
        self.assertIn("identical", self.qemu_img("compare", "-f", "qcow2", "-F", "raw", name, as_file).stdout)

    KINDS = ((), ("-o", "compat=0.10"), ("-o", "cluster_size=512"), ("-o", "cluster_size=2M,refcount_bits=4"),
             ("-o", "refcount_bits=64"), ("-o", "extended_l2=on"), ("-o", "lazy_refcounts=on"))

    def test_ours_in_qemu_s_hands(self):
        for options in self.KINDS:
            name = self.make("a.qcow2", *options, writes=10)
            self.taken(name, ("one", "two"), self.ours)
            self.assertEqual(self.listed(name), ["one", "two"])
            self.qemu_check(name)
            for snapshot in ("one", "two"):
                self.qemu_img("convert", "-l", snapshot, "-O", "raw", name, "out.raw")
                self.assertIn("identical", self.qemu_img("compare", "out.raw", f"{snapshot}.raw").stdout)
            self.assert_reads(name, "now.raw")
            self.qemu_img("snapshot", "-a", "one", name)
            self.assert_reads(name, "one.raw")
            self.qemu_img("snapshot", "-d", "one", name)
            self.image("snapshot", "-d", "two", name)
            self.assert_reads(name, "one.raw")
            self.assertEqual(self.listed(name), [])
            self.qemu_check(name)

    def test_qemu_s_in_our_hands(self):
        for options in self.KINDS:
            name = self.make("a.qcow2", *options, writes=10)
            self.taken(name, ("one", "two"), self.theirs)
            self.assertEqual(self.listed(name), ["one", "two"])
            for snapshot in ("two", "one"):
                self.image("convert", "-l", snapshot, name, "out.raw")
                self.assertIn("identical", self.qemu_img("compare", "out.raw", f"{snapshot}.raw").stdout)
                self.image("snapshot", "-a", snapshot, name)
                self.assert_reads(name, f"{snapshot}.raw")
                self.qemu_check(name)
            self.image("snapshot", "-d", "two", name)
            self.qemu_check(name)
            self.qemu_img("snapshot", "-a", "one", name)
            self.assert_reads(name, "one.raw")
            self.image("snapshot", "-d", "one", name)
            self.assertEqual(self.listed(name), [])            # nor does the image say now that it is corrupt
            self.qemu_check(name)

    def test_ids_and_names(self):
        name = self.make("a.qcow2", writes=0)
        for snapshot in ("same", "same", "1", "x"):
            self.qemu_io(name, f"write -P {len(snapshot)} 0 64k")
            self.ours(snapshot, name)
        made = self.json("image", "snapshot", "-c", "last", name)
        self.assertEqual((made["id"], made["name"]), ("5", "last"))
        self.image("snapshot", "-d", "snapshot.id=1", name)
        self.assertEqual(self.listed(name), ["same", "1", "x", "last"])
        self.image("snapshot", "--delete", "snapshot.name=1", name)
        self.image("snapshot", "-d", "snapshot.id=2,snapshot.name=same", name)
        self.assertEqual(self.listed(name), ["x", "last"])
        self.assertIn("find snapshot", self.fails("image", "snapshot", "-d", "snapshot.id=2,snapshot.name=x", name))
        self.assertIn("does not say", self.fails("image", "snapshot", "-d", "snapshot.nonsense=2", name))
        rows = self.image("snapshot", name).stdout.splitlines()
        self.assertEqual([row.split()[:2] for row in rows], [["ID", "TAG"], ["4", "x"], ["5", "last"]])

    def test_the_disk_s_size_is_the_snapshot_s(self):
        name = self.make("a.qcow2", writes=10)
        self.ours("small", name)
        self.qemu_img("convert", "-O", "raw", name, "small.raw")
        self.image("resize", name, "100M")
        self.image("convert", "-l", "small", name, "out.raw")
        self.assertEqual((self.path / "out.raw").stat().st_size, 64 * MiB)
        self.image("snapshot", "-a", "small", name)
        self.assertEqual(self.qemu_info(name)["virtual-size"], 64 * MiB)
        self.assert_reads(name, "small.raw")
        self.qemu_check(name)

    def test_above_another_image(self):
        self.make("base.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "70M")
        self.taken("top.qcow2", ("one",), self.ours)
        self.qemu_check("top.qcow2")
        for words in (["-O", "raw"], ["-O", "qcow2"], ["-O", "qcow2", "-c"], ["-O", "qcow2", "-b", "base.qcow2", "-F", "qcow2"]):
            self.image("convert", "-l", "one", *words, "top.qcow2", "out")
            self.assertIn("identical", self.qemu_img("compare", "-f", words[1], "-F", "raw", "out", "one.raw").stdout)
        self.image("snapshot", "-a", "one", "top.qcow2")
        self.assert_reads("top.qcow2", "one.raw")

    def test_read_by_the_other_verbs(self):
        name = self.make("a.qcow2", writes=20)
        self.taken(name, ("one", "two"), self.ours)
        self.image("compare", "--snapshot", "one", name, "one.raw")
        self.image("compare", "--second-snapshot", "two", "two.raw", name)
        self.image("compare", "--snapshot", "one", "--second-snapshot", "two", name, name, expect=1)
        theirs = json.loads(self.qemu_img("measure", "--output=json", "-O", "qcow2", "-l", "one", name).stdout)
        self.assertEqual(self.json("image", "measure", "-O", "qcow2", "-l", "one", name), theirs)
        before = self.json("image", "map", "--snapshot", "two", name)
        self.image("snapshot", "-a", "two", name)
        self.assertEqual(self.json("image", "map", name), before)

    def test_bitmaps_stay_true(self):
        name = self.make("a.qcow2", writes=10)
        self.image("bitmap", "--add", name, "b")
        self.ours("one", name)
        self.qemu_io(name, "write -P 1 1M 64k")
        self.assertIn("holds bitmaps", self.fails("image", "snapshot", "-a", "one", name))
        self.ours("two", name)
        self.image("snapshot", "-d", "one", name)
        bitmaps = self.qemu_info(name)["format-specific"]["data"]["bitmaps"]
        self.assertEqual([(b["name"], b["flags"]) for b in bitmaps], [("b", ["auto"])])
        self.qemu_check(name)
        self.image("bitmap", "--remove", name, "b")
        self.image("snapshot", "-a", "two", name)
        self.qemu_check(name)

    def test_refused(self):
        self.raw("a.raw")
        name = self.make("a.qcow2", writes=2)
        self.ours("one", name)
        before = (self.path / name).read_bytes()
        for words in (["-a", "no", name], ["-d", "no", name], ["-c", "x", "a.raw"], ["-l", "a.raw"], ["-c", "x" * 70000, name],
                      ["-U", "-c", "x", name], ["-l", "nothing.qcow2"]):
            self.fails("image", "snapshot", *words)
        self.image("snapshot", "-c", "x", "-d", "one", name, expect=USAGE)
        self.image("snapshot", "-c", "", name, expect=USAGE)
        self.assertIn("find snapshot 'no'", self.fails("image", "convert", "-l", "no", name, "out.raw"))
        self.assertIn("multiple", self.fails("image", "convert", "-l", "one", name, name, "out.raw"))
        self.assertIn("only qcow2", self.fails("image", "convert", "-l", "one", "a.raw", "out.raw"))
        self.assertNotIn("out.raw", self.names())
        self.assertEqual((self.path / name).read_bytes(), before)
        self.serve("a.qcow2=disk")
        self.assertIn("lock", self.fails("image", "snapshot", "-c", "two", name))
        self.assertIn("lock", self.fails("image", "snapshot", "-l", name))
        self.assertEqual(len(self.json("image", "snapshot", "-U", "-l", name)), 1)

    def test_an_image_with_refcounts_of_one_bit_has_none(self):
        name = self.make("a.qcow2", "-o", "refcount_bits=1", writes=5)
        before = self.qemu_info(name)["format-specific"]
        self.fails("image", "snapshot", "-c", "x", name)
        self.assertEqual(self.listed(name), [])
        self.assertEqual(self.qemu_info(name)["format-specific"], before)
        self.qemu_check(name)
        self.assertLess((self.path / name).stat().st_size, 64 * MiB + 256 * KiB)

    def test_what_is_deleted_is_the_one_that_was_meant(self):
        name = self.make("a.qcow2", writes=0)
        self.taken(name, ("2", "x"), self.theirs)
        self.assertIn("snapshot.id=2 or snapshot.name=2", self.fails("image", "snapshot", "-d", "2", name))
        self.assertEqual(self.listed(name), ["2", "x"])
        socket = self.lab.env.pop("TIDEMARK_QMP")
        self.assertIn("snapshot.id=2 or", self.fails("snapshot", "delete", "--internal", name, "2"))
        self.lab.env["TIDEMARK_QMP"] = socket
        self.serve(f"{name}=disk")
        self.assertIn("snapshot.id=2 or", self.fails("snapshot", "delete", "--internal", "disk", "2"))
        self.run_tidemark("snapshot", "delete", "--internal", "disk", "snapshot.name=2")
        self.run_tidemark("qmp", "quit")
        self.daemon.wait(20)
        self.lab.ended(self.daemon)
        self.assertEqual(self.listed(name), ["x"])
        self.image("snapshot", "-d", "2", name)
        self.assertEqual(self.listed(name), [])


if __name__ == "__main__":
    unittest.main()
