"""Persistent bitmaps of qcow2 images, from tidemarkd's hands into QEMU's and back: stored bit for bit at an orderly end,
found again whoever wrote in between, and neither lost nor believed wrongly when one of the two was killed."""
import json
import os
import random
import shutil
import subprocess
import unittest

from bed import DONE, FAILED, KiB, MiB, Bed
from lab import processes
from lab.qmp import Qmp, QmpError

DISK = 16 * MiB
GRANULE = 64 * KiB
IMAGE = "disk.qcow2"
STORE = IMAGE + ".tidemark"


class Bitmaps(Bed):
    # Ours

    def start(self, *options, read_only=False, image=IMAGE, kind="qcow2", stderr=False, tracking=None):
        only = f",read-only={'on' if read_only else 'off'}" + (f",tracking.store={tracking}" if tracking else "")
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                                     "--blockdev", f"driver={kind},node-name=disk,file.driver=file,file.filename={image}{only}",
                                     "--export", f"nbd,id=disk,node-name=disk,name=disk,writable={'off' if read_only else 'on'}",
                                     *options, stderr=subprocess.PIPE if stderr else None, text=True)
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()

    def stop(self):
        self.assertEqual(self.lab.stop(self.daemon), DONE)

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()
        self.lab.ended(self.daemon)
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)

    def write(self, *offsets):
        disk = self.disk()
        for offset in offsets:
            disk.pwrite(os.urandom(4096), offset)
        disk.flush()
        disk.shutdown()

    def bitmaps(self):
        nodes = self.client.execute("query-named-block-nodes")
        return {b["name"]: b for n in nodes if n["node-name"] == "disk" for b in n.get("dirty-bitmaps", ())}

    def sha(self, name):
        return self.client.execute("x-debug-block-dirty-bitmap-sha256", node="disk", name=name)["sha256"]

    def add(self, name, **more):
        self.client.execute("block-dirty-bitmap-add", node="disk", name=name, **{"persistent": True, "granularity": GRANULE, **more})

    # QEMU's

    def image(self, *bitmaps, size=DISK, options=()):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *options, IMAGE, str(size))
        for words in bitmaps:
            self.lab.run("qemu-img", "bitmap", "--add", IMAGE, *words)

    def info(self):
        """What qemu-img says of the image's bitmaps: {name: flags}."""
        found = json.loads(self.lab.run("qemu-img", "info", "--output=json", IMAGE).stdout)
        return {b["name"]: sorted(b["flags"]) for b in found["format-specific"]["data"].get("bitmaps", ())}

    def check(self):
        self.lab.run("qemu-img", "check", "-q", IMAGE)

    def io(self, *commands):
        self.lab.run("qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command)), IMAGE)

    def dirty(self, name):
        """The dirty granules of a bitmap of the image, as qemu-nbd tells them."""
        server = self.lab.start("qemu-nbd", "-r", "-t", "-f", "qcow2", "-k", str(self.path / "qemu.sock"), "-B", name, IMAGE)
        processes.wait_for_socket(self.path / "qemu.sock", server)
        done = self.lab.run("nbdinfo", f"--map=qemu:dirty-bitmap:{name}", "--json", "nbd+unix:///?socket=qemu.sock")
        self.lab.stop(server)
        (self.path / "qemu.sock").unlink(missing_ok=True)
        return {at // GRANULE for e in json.loads(done.stdout) if e["type"] == 1
                for at in range(e["offset"], e["offset"] + e["length"], GRANULE)}

    def qsd(self, *options):
        server = self.lab.start("qemu-storage-daemon", "--chardev", "socket,id=c,path=qsd.sock,server=on,wait=off",
                                "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                                "--blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={IMAGE}",
                                "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on", *options)
        for name in ("qsd.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, server)
        self.client = Qmp(self.path / "qsd.sock")
        self.addCleanup(self.client.close)
        return server

    def end_qsd(self, server, kill=False):
        if kill:
            server.kill()
            server.wait()
            self.lab.ended(server)
        else:
            self.lab.stop(server)
        for name in ("qsd.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)


class FromQemu(Bitmaps):
    def test_they_are_the_node_s(self):
        self.image(["a"], ["-g", "4096", "b"], ["--disable", "c"])
        self.io("write 128k 4k", "write 15M 64k")
        before = self.dirty("a")
        self.assertEqual(before, {2, 240})
        self.start()
        found = self.bitmaps()
        self.assertEqual(sorted(found), ["a", "b", "c"])
        for name, granularity, recording, count in (("a", GRANULE, True, 2 * GRANULE), ("b", 4096, True, 68 * KiB),
                                                    ("c", GRANULE, False, 0)):
            self.assertEqual({key: found[name][key] for key in ("granularity", "recording", "busy", "persistent", "count")},
                             {"granularity": granularity, "recording": recording, "busy": False, "persistent": True,
                              "count": count}, name)
            self.assertNotIn("inconsistent", found[name])
        # Before anything was written nobody else would believe them.
        self.assertEqual(self.in_use(), ["a", "b", "c"])
        self.write(1 * MiB)
        self.stop()
        self.check()
        self.assertEqual(self.info(), {"a": ["auto"], "b": ["auto"], "c": []})
        self.assertEqual(self.dirty("a"), {2, 16, 240})

    def in_use(self):
        done = self.lab.run("qemu-img", "info", "-U", "--output=json", IMAGE)
        bitmaps = json.loads(done.stdout)["format-specific"]["data"]["bitmaps"]
        return sorted(b["name"] for b in bitmaps if "in-use" in b["flags"])

    def test_one_that_was_in_use_is_inconsistent_and_can_be_removed(self):
        self.image(["a"], ["b"])
        server = self.qsd()
        self.write(0)
        self.end_qsd(server, kill=True)
        self.start()
        for name in "ab":
            found = self.bitmaps()[name]
            self.assertTrue(found["inconsistent"])
            self.assertFalse(found["recording"])
        with self.assertRaises(QmpError) as caught:
            self.client.execute("block-dirty-bitmap-clear", node="disk", name="a")
        self.assertEqual(caught.exception.desc, "Bitmap 'a' is inconsistent and cannot be used")
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="a")
        self.add("a")
        self.write(2 * MiB)
        self.stop()
        self.check()
        self.assertEqual(self.info(), {"a": ["auto"], "b": ["auto", "in-use"]})
        self.assertEqual(self.dirty("a"), {32})
        self.start()
        self.assertTrue(self.bitmaps()["b"]["inconsistent"])
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="b")
        self.stop()
        self.assertEqual(self.info(), {"a": ["auto"]})
        self.check()

    def test_made_by_a_storage_daemon(self):
        self.image()
        server = self.qsd()
        self.add("a", granularity=4096)
        self.write(0, 5 * MiB)
        theirs = self.sha("a")
        self.client.execute("quit")
        server.wait()
        self.end_qsd(server)
        self.start()
        self.assertEqual(self.sha("a"), theirs)
        self.write(7 * MiB)
        ours = self.sha("a")
        self.stop()
        server = self.qsd()
        self.assertEqual(self.sha("a"), ours)
        self.end_qsd(server)


class ToQemu(Bitmaps):
    def test_an_orderly_end_stores_them(self):
        for options in ("cluster_size=512", "cluster_size=4096", "cluster_size=65536", "cluster_size=2097152", "extended_l2=on",
                        "data_file=data.raw,data_file_raw=on", "refcount_bits=1", "lazy_refcounts=on"):
            with self.subTest(options=options):
                self.image(options=["-o", options])
                self.start()
                self.add("a")
                self.add("fine", granularity=512)
                self.add("off", disabled=True)
                self.client.execute("block-dirty-bitmap-add", node="disk", name="here")
                self.write(0, 3 * MiB, DISK - 4096)
                digests = {name: self.sha(name) for name in ("a", "fine", "off")}
                if "4096" in options:
                    self.client.execute("block-export-del", id="disk")
                    self.client.execute("blockdev-del", node_name="disk")
                    self.check()
                if "512" in options:
                    self.client.execute("quit")
                    self.daemon.wait(timeout=20)
                self.stop()
                self.check()
                self.assertEqual(self.info(), {"a": ["auto"], "fine": ["auto"], "off": []})
                self.assertEqual(self.dirty("a"), {0, 48, 255})
                server = self.qsd()
                self.assertEqual({name: self.sha(name) for name in digests}, digests)
                self.end_qsd(server)
                self.check()
                (self.path / STORE).unlink(missing_ok=True)

    def test_what_qemu_did_meanwhile_counts(self):
        self.image()
        self.start()
        for name in "abcd":
            self.add(name)
        self.write(0)
        self.stop()
        self.lab.run("qemu-img", "bitmap", "--clear", IMAGE, "b")
        self.lab.run("qemu-img", "bitmap", "--remove", IMAGE, "c")
        self.lab.run("qemu-img", "bitmap", "--disable", IMAGE, "d")
        self.lab.run("qemu-img", "bitmap", "--add", IMAGE, "e")
        self.io("write 1M 4k")
        self.start()
        found = self.bitmaps()
        self.assertEqual({name: (b["count"] // GRANULE, b["recording"]) for name, b in found.items()},
                         {"a": (2, True), "b": (1, True), "d": (1, False), "e": (1, True)})
        self.assertFalse(any("inconsistent" in b for b in found.values()))
        self.write(2 * MiB)
        self.stop()
        self.assertEqual(self.dirty("a"), {0, 16, 32})
        # Nothing happened: what the store knows is there as well.
        self.start()
        self.assertEqual(self.bitmaps()["a"]["count"], 3 * GRANULE)
        self.stop()

    def test_all_were_removed_meanwhile(self):
        self.image()
        self.start()
        self.add("a")
        self.stop()
        self.lab.run("qemu-img", "bitmap", "--remove", IMAGE, "a")
        self.start()
        self.assertEqual(self.bitmaps(), {})
        self.stop()
        self.assertFalse((self.path / STORE).exists())

    def test_a_program_that_knows_no_bitmaps(self):
        self.image()
        self.start()
        self.add("a")
        self.stop()
        with open(self.path / IMAGE, "r+b") as file:           # it takes off all marks before it writes
            file.seek(88)
            file.write(bytes(8))
        self.start()
        self.assertTrue(self.bitmaps()["a"]["inconsistent"])
        self.client.execute("block-dirty-bitmap-remove", node="disk", name="a")
        self.stop()
        self.lab.run("qemu-img", "check", "-q", IMAGE, ok=(0, 3))
        self.assertEqual(self.info(), {})

    def test_limits_are_qemu_s(self):
        self.image(size=8 << 40)
        self.start()
        with self.assertRaises(QmpError) as caught:
            self.add("a", granularity=512)
        self.assertEqual(caught.exception.desc, "Can't make bitmap 'a' persistent in 'disk': Too much space will be occupied by the "
                                                "bitmap. Use larger granularity")
        self.stop()

    def end_on_a_full_disk(self, by):
        small = self.path / "small"
        small.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], capture_output=True, text=True)
        if mounted.returncode:
            self.skipTest(mounted.stderr)
        self.addCleanup(subprocess.run, ["umount", "-l", small])
        self.image()
        shutil.move(self.path / IMAGE, small / IMAGE)
        (self.path / IMAGE).symlink_to(small / IMAGE)
        self.start(stderr=True, tracking="store")
        self.add("a")
        self.write(0)
        with self.assertRaises(OSError), open(small / "filler", "wb") as filler:
            while True:
                filler.write(bytes(4096))
                filler.flush()
        if by == "blockdev-del":
            self.client.execute("block-export-del", id="disk")
            self.client.execute("blockdev-del", node_name="disk")
        else:
            self.client.execute("quit")
        self.client.wait_event("TRACKING_STORE_STATUS", node="disk", status="failed")
        if by == "blockdev-del":
            self.stop()
        else:
            self.assertEqual(self.daemon.wait(20), FAILED)
            self.lab.ended(self.daemon)
        with self.daemon.stderr as said:
            self.assertIn("could not be stored in its image", said.read())
        (small / "filler").unlink()

    def test_a_full_disk_is_said_and_costs_no_mark(self):
        self.end_on_a_full_disk("blockdev-del")
        self.assertEqual(self.info(), {})
        self.start(tracking="store")
        self.assertEqual(self.bitmaps()["a"]["count"], GRANULE)
        self.assertNotIn("inconsistent", self.bitmaps()["a"])
        self.stop()
        self.lab.run("qemu-img", "check", "-q", IMAGE, ok=(0, 3))
        self.assertEqual(self.dirty("a"), {0})

    def test_a_mark_that_stayed_counts_for_the_next_session(self):
        self.end_on_a_full_disk("quit")
        self.start(tracking="store")
        self.assertNotIn("inconsistent", self.bitmaps()["a"])
        self.kill()
        self.io("write 5M 4k")
        self.start(tracking="store")
        self.assertTrue(self.bitmaps()["a"]["inconsistent"])
        self.assertIn("another program", self.bitmaps()["a"]["inconsistent-reason"])
        self.stop()


class Killed(Bitmaps):
    def test_a_mark_is_about_one_store(self):
        """A session without the store, or with another one, in between."""
        for other in ("none", "beside the image"):
            with self.subTest(other=other):
                self.image()
                there, away = self.path / "mounted", self.path / "away"
                there.mkdir()
                self.start(tracking="mounted/store")
                self.add("a")
                self.stop()
                self.start(tracking="mounted/store")
                self.assertNotIn("inconsistent", self.bitmaps()["a"])
                self.kill()
                there.rename(away)
                self.start(tracking="mounted/store" if other == "none" else None)
                self.assertTrue(self.bitmaps()["a"]["inconsistent"])
                self.write(5 * MiB)
                self.kill()
                away.rename(there)
                self.start(tracking="mounted/store")
                self.assertTrue(self.bitmaps()["a"]["inconsistent"])
                self.stop()
                self.check()
                shutil.rmtree(there)
                (self.path / STORE).unlink(missing_ok=True)

    def test_the_store_rules(self):
        for options in ("lazy_refcounts=off", "lazy_refcounts=on"):
            with self.subTest(options=options):
                self.image(["a"], options=["-o", options])
                self.start()
                self.write(1 * MiB)
                self.kill()
                self.assertIn("in-use", self.info()["a"])
                self.start()
                found = self.bitmaps()["a"]
                self.assertNotIn("inconsistent", found)
                self.assertGreaterEqual(found["count"], GRANULE)
                self.stop()
                self.check()
                self.assertIn(16, self.dirty("a"))

    def test_qemu_after_a_kill_is_noticed(self):
        self.image(["a"])
        self.start()
        self.add("b")
        self.kill()
        self.io("write 5M 4k")
        self.start()
        self.assertTrue(self.bitmaps()["a"]["inconsistent"])
        self.assertTrue(self.bitmaps()["b"]["inconsistent"])
        self.assertIn("another program", self.bitmaps()["b"]["inconsistent-reason"])
        self.stop()

    def test_qemu_that_only_read_does_no_harm(self):
        self.image(["a"])
        self.start()
        self.write(0)
        self.kill()
        self.lab.run("qemu-img", "check", "-q", IMAGE, ok=(0, 3))
        self.lab.run("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 4k", IMAGE)
        self.start()
        self.assertNotIn("inconsistent", self.bitmaps()["a"])
        self.stop()

    def rounds(self, seed):
        """Both write, end and are killed, in any order: a bitmap that is not inconsistent has every change."""
        rng, changed = random.Random(seed), set()
        self.image(["a"])
        for _ in range(14):
            offsets = [rng.randrange(DISK // 4096) * 4096 for _ in range(rng.randrange(4))]
            ours, kill = rng.random() < 0.6, rng.random() < 0.4
            server = None if ours else self.qsd()
            if ours:
                self.start()
            found = self.bitmaps().get("a")
            self.assertIsNotNone(found)
            if found.get("inconsistent"):
                self.assertTrue(self.lost, "inconsistent without a reason")
                self.client.execute("block-dirty-bitmap-remove", node="disk", name="a")
                changed.clear()
                self.add("a")
                self.lost = self.unsaved = False
                # QEMU stores what is new at its end only.
                kill = kill and ours
            self.write(*offsets)
            changed |= {offset // GRANULE for offset in offsets}
            if not ours:
                self.end_qsd(server, kill)
                self.lost = kill
            elif kill:
                self.kill()
                self.lost = False
                # The next one of ours finds all of it; one of QEMU's in between ends that.
                if rng.random() < 0.3:
                    self.io("read 0 4k")
                    self.lost = True
                else:
                    self.start()
                    self.assertNotIn("inconsistent", self.bitmaps()["a"])
                    self.stop()
            else:
                self.stop()
            if not self.lost:
                self.check()
                self.assertLessEqual(changed, self.dirty("a"))

    def test_rounds(self):
        for seed in range(2):
            with self.subTest(seed=seed):
                self.lost = False
                (self.path / STORE).unlink(missing_ok=True)
                self.rounds(seed)


class ReadOnly(Bitmaps):
    def files(self):
        return {name: (self.path / name).read_bytes() for name in (IMAGE, STORE) if (self.path / name).exists()}

    def assert_shown(self, **expected):
        found = {name: (b["count"] // GRANULE, bool(b.get("inconsistent"))) for name, b in self.bitmaps().items()}
        self.assertEqual(found, expected)

    def test_those_of_an_image(self):
        self.image(["a"])
        self.io("write 1M 4k")
        before = self.files()
        self.start(read_only=True)
        self.assert_shown(a=(1, False))
        for command in ("clear", "remove"):
            with self.assertRaises(QmpError) as caught:
                self.client.execute(f"block-dirty-bitmap-{command}", node="disk", name="a")
            self.assertEqual(caught.exception.desc, "Bitmap 'a' is readonly and cannot be modified")
        self.client.execute("block-dirty-bitmap-add", node="disk", name="copy", granularity=GRANULE)
        self.client.execute("block-dirty-bitmap-merge", node="disk", target="copy", bitmaps=["a"])
        self.assert_shown(a=(1, False), copy=(1, False))
        self.stop()
        self.assertEqual(self.files(), before)

    def test_those_of_a_store_after_a_kill(self):
        self.image(["a"])
        self.start()
        self.write(0, 1 * MiB)
        self.kill()
        before = self.files()
        self.start(read_only=True)
        self.assertGreaterEqual(self.bitmaps()["a"]["count"], 2 * GRANULE)
        self.assertNotIn("inconsistent", self.bitmaps()["a"])
        self.stop()
        self.assertEqual(self.files(), before)
        self.start()
        self.assertNotIn("inconsistent", self.bitmaps()["a"])
        self.stop()

    def test_those_of_a_raw_disk(self):
        self.raw("disk.img", DISK)
        for end in (self.stop, self.kill):
            self.start(image="disk.img", kind="raw")
            if not self.bitmaps():
                self.add("a")
            self.write(0)
            end()
            before = (self.path / "disk.img.tidemark").read_bytes()
            self.start(image="disk.img", kind="raw", read_only=True)
            self.assertGreaterEqual(self.bitmaps()["a"]["count"], GRANULE)
            self.assertNotIn("inconsistent", self.bitmaps()["a"])
            self.stop()
            self.assertEqual((self.path / "disk.img.tidemark").read_bytes(), before)


if __name__ == "__main__":
    unittest.main()
