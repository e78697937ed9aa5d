"""The way things go when nothing goes wrong: serve, back up, list, verify, restore."""
import json
import os
import signal
import threading
import unittest

from bed import DAMAGED, DONE, FAILED, MiB, Bed, first_difference, flip
from monitor import Monitor


class OneDisk(Bed):
    def test_every_point_restores_as_the_disk_was(self):
        self.raw("disk.img")
        self.serve("disk.img=disk", options=["--format", "raw"])
        taken = [(self.backup(level="full"), self.content())]
        for seed in range(3):
            self.change(seed=seed)
            taken.append((self.backup(level="incremental"), self.content()))
        self.assertEqual([p["id"] for p in self.json("list", "backups")["points"]], [p["point"] for p, _ in taken])
        for point, content in taken:
            self.assert_restores(point["point"], content)
        rows = self.json("verify", "backups", "--all")
        self.assertEqual([row["ok"] for row in rows], [True] * len(taken))
        self.assertEqual({row["mismatches"] for row in rows}, {0})

    def test_incremental_stores_what_changed(self):
        self.raw("disk.img", 32 * MiB)
        self.serve("disk.img=disk")
        self.backup(level="full")
        disk = self.disk()
        disk.pwrite(b"x" * 4096, 20 * MiB)
        disk.pwrite(b"y" * 4096, 5 * MiB)
        point = self.backup(level="incremental")
        self.assertEqual(point["disks"][0]["stored-bytes"], 2 * 65536)
        self.assertEqual(self.backup(level="incremental")["disks"][0]["stored-bytes"], 0)

    def test_only_one_bitmap_stays(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        for _ in range(3):
            point = self.backup()
            bitmaps = self.json("bitmap", "list", "disk")
            self.assertEqual(len(bitmaps), 1)
            self.assertTrue(bitmaps[0]["name"].endswith(f":{point['point']}:disk"))
        self.assertEqual(self.json("job", "list"), [])

    def test_points_are_found_by_beginnings_and_latest(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        point = self.backup()["point"]
        content = self.content()
        for name in (point, point[:-3], "latest"):
            self.assertEqual(first_difference(self.restored(name), content), None)
        self.assertIn("no point 'zzz'", self.fails("restore", "backups", "zzz", "--to", "x.img"))

    def test_compressed_and_with_a_machine(self):
        self.raw("disk.img")
        with open(self.path / "disk.img", "r+b") as file:
            file.write(b"the same line again and again\n" * 100000)
        (self.path / "vm.json").write_text('{"cpus": 2}')
        self.serve("disk.img=disk")
        point = self.backup("--compress", "--machine", "vm.json")
        image = self.path / "backups" / "points" / point["point"] / "disk.qcow2"
        self.assertLess(image.stat().st_blocks * 512, 5 * MiB)
        manifest = json.loads((image.parent / "manifest.json").read_text())
        self.assertEqual(manifest["machine"], {"cpus": 2})
        self.assert_restores(point["point"], self.content())

    def test_odd_sizes(self):
        self.raw("disk.img", 5 * MiB + 512)
        self.serve("disk.img=disk")
        points = [(self.backup(), self.content())]
        disk = self.disk()
        disk.pwrite(b"z" * 512, 5 * MiB)
        points.append((self.backup(level="incremental"), self.content()))
        for point, content in points:
            self.assert_restores(point["point"], content)

    def test_other_programs_read_the_chain(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup()
        self.change()
        point = self.backup(level="incremental")["point"]
        self.lab.run("qemu-img", "convert", "-O", "raw", f"backups/points/{point}/disk.qcow2", "converted.img")
        self.assertEqual(first_difference((self.path / "converted.img").read_bytes(), self.content()), None)
        self.lab.run("qemu-img", "check", f"backups/points/{point}/disk.qcow2")

    def test_restore_to_qcow2_and_over_a_file(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup()
        self.run_tidemark("restore", "backups", "--to", "out.qcow2", "--format", "qcow2")
        self.lab.run("qemu-img", "check", "out.qcow2")
        self.lab.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "-U", "out.qcow2", "disk.img")
        self.assertIn("exists", self.fails("restore", "backups", "--to", "out.qcow2"))
        self.run_tidemark("restore", "backups", "--to", "by_name.qcow2")
        self.lab.run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", "by_name.qcow2", "out.qcow2")
        (self.path / "out.qcow2").chmod(0o640)
        self.run_tidemark("restore", "backups", "--to", "out.qcow2", "--force", "--format", "raw")
        self.assertEqual((self.path / "out.qcow2").stat().st_mode & 0o777, 0o640)
        self.assertEqual(first_difference((self.path / "out.qcow2").read_bytes(), self.content()), None)

    def test_full_on_demand_and_after_a_restart(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup(level="full")
        self.backup("--level", "full", level="full")
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        self.serve("disk.img=disk")
        self.backup("--level", "incremental", level="incremental")
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        (self.path / "disk.img.tidemark").unlink()
        self.serve("disk.img=disk")
        self.assertIn("has no bitmap since point", self.fails("backup", "backups", "--level", "incremental"))
        self.backup(level="full")
        self.backup(level="incremental")

    def test_an_image_that_somebody_wrote_meanwhile_gets_a_full_one(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup(level="full")
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        flip(self.path / "disk.img", 5)
        self.serve("disk.img=disk")
        self.assertIn("is inconsistent", self.fails("backup", "backups", "--level", "incremental"))
        point = self.backup(level="full")
        self.assert_restores(point["point"], self.content())
        self.backup(level="incremental")

    def test_what_the_target_has_wrong_is_found_even_if_it_was_wrong_at_once(self):
        """A checksum is of what was read from the disk, not of what the image says when the backup ends."""
        disk = self.raw("disk.img").read_bytes()
        self.serve("disk.img=disk")
        process = self.start_slow_backup("--level", "full")
        image = next((self.path / "backups" / "points").glob(".new-*/disk.qcow2"))
        self.until(lambda: disk[:4096] in image.read_bytes(), "a cluster in the image")
        flip(image, image.read_bytes().find(disk[:4096]) + 100)
        qmp = self.qmp()
        qmp.execute("block-job-set-speed", device=qmp.execute("query-jobs")[0]["id"], speed=0)
        self.assertEqual(self.end_of(process)[0], DONE)
        self.assertIn("1 granule", self.run_tidemark("verify", "backups", "--all", expect=DAMAGED).stdout)

    def test_a_part_that_was_cut_off_and_is_there_again_has_changed(self):
        self.qcow2("disk.qcow2")
        self.serve("disk.qcow2=disk")
        self.backup(level="full")
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        self.run_tidemark("image", "resize", "--shrink", "disk.qcow2", "4M")
        self.run_tidemark("image", "resize", "disk.qcow2", "8M")
        self.serve("disk.qcow2=disk")
        self.assert_restores(self.backup()["point"], self.content())

    def test_a_backup_that_fails_keeps_the_next_incremental(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup(level="full")
        before = self.state()
        self.assertIn("no node 'none'", self.fails("backup", "backups", "--disk", "disk=other", "--disk", "none"))
        self.assertIn("no node 'none'", self.fails("backup", "backups", "--disk", "disk", "--level", "full", "--disk", "none"))
        self.assertEqual(self.state(), before)
        self.backup(level="incremental")

    def test_nothing_is_built_on_a_point_whose_files_are_not_there(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        for n, (name, damage) in enumerate((("disk.qcow2", lambda file: file.unlink()), ("disk.sums", lambda file: os.truncate(file, 100)),
                                            ("disk.qcow2", lambda file: os.truncate(file, 1000)), ("disk.sums", lambda file: file.unlink()))):
            base = self.backup(level="full")["point"]
            damage(self.path / "backups" / "points" / base / name)
            self.change(seed=n)
            self.assertIn("cannot be built on", self.fails("backup", "backups", "--level", "incremental"))
            point = self.backup(level="full")
            self.assertIn(f"point {base} cannot be built on", point["disks"][0]["full-reason"])
            self.assert_restores(point["point"], self.content())
            (self.path / "backups").rename(self.path / f"backups{n}")

    def test_the_path_of_a_directory_is_the_kernels(self):
        self.raw("disk.img", 1 * MiB)
        self.serve("disk.img=disk")
        (self.path / "far" / "away").mkdir(parents=True)
        (self.path / "link").symlink_to("far/away")
        self.run_tidemark("backup", "link/../backups")
        self.assertTrue((self.path / "far" / "backups").is_dir())
        self.assertFalse((self.path / "backups").exists())

    def test_while_another_backup_runs(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        process = self.start_slow_backup()
        point = self.json("backup", "others")
        self.assertEqual([(disk["name"], disk["node"]) for disk in point["disks"]], [("disk", "disk")])
        process.send_signal(signal.SIGINT)
        self.end_of(process)
        self.change()
        point = self.json("backup", "others")
        self.assertEqual(point["disks"][0]["level"], "incremental")
        self.assertEqual(first_difference(self.restored("latest", directory="others"), self.content()), None)

    def test_a_disk_keeps_its_name_on_a_snapshot(self):
        self.raw("disk.img")
        self.serve(f"{self.path}/disk.img=disk")
        self.backup(level="full")
        self.run_tidemark("snapshot", "create", "disk", "--name", "monday")
        self.change()
        point = self.backup(level="incremental")
        self.assertEqual([disk["name"] for disk in point["disks"]], ["disk"])
        self.assert_restores(point["point"], self.content())

    def test_a_disk_of_several_exports_keeps_its_name(self):
        self.raw("disk.img")
        self.serve(f"{self.path}/disk.img=disk")
        client = self.qmp()

        def export(name, node):
            client.execute("block-export-add", type="nbd", id=name, node_name=node, name=name, writable=True)

        export("another", "disk")
        self.backup(level="full")
        self.run_tidemark("snapshot", "create", "disk", "--name", "monday")
        export("disk.monday", "disk.monday")               # is called as the node by now
        for disk in ("another", "disk.monday", "disk"):
            self.run_tidemark("chain", "show", disk)
        self.change()
        point = self.backup(level="incremental")
        self.assertEqual([disk["name"] for disk in point["disks"]], ["disk"])
        self.assert_restores(point["point"], self.content())
        client.execute("block-export-del", id="disk", mode="hard")
        self.assertEqual(self.json("backup", "others")["disks"][0]["name"], "another")     # that was made first of them
        export("a", "disk.monday")
        self.assertEqual([self.json("backup", "others")["disks"][0][key] for key in ("name", "level")], ["another", "incremental"])
        self.run_tidemark("backup", "others", "--disk", "disk.monday")
        self.assertEqual([self.json("backup", "others")["disks"][0][key] for key in ("name", "level")], ["disk.monday", "incremental"])

    def test_a_node_that_is_the_disk_no_more(self):
        self.raw("disk.img")
        self.serve(f"{self.path}/disk.img=disk")
        self.backup("--disk", "disk", level="full")
        self.run_tidemark("snapshot", "create", "disk", "--name", "monday")
        self.change()
        point = self.backup("--disk", "disk", level="incremental")
        self.assertEqual([disk["name"] for disk in point["disks"]], ["disk"])
        self.assert_restores(point["point"], self.content())
        export, = self.qmp().execute("query-block-exports")
        self.qmp().execute("block-export-add", type="nbd", id="other", node_name=export["node-name"], writable=True)
        self.qmp().execute("block-export-del", id="disk", mode="hard")
        self.assertIn(f"'{export['node-name']}' stands on it", self.run_tidemark("backup", "backups", "--disk", "disk", expect=FAILED).stderr)
        self.qmp().execute("blockdev-add", driver="null-co", node_name="another", size=MiB)
        self.qmp().execute("block-export-add", type="nbd", id="disk", node_name="another", name="another")
        self.assertEqual(self.backup("--disk", "disk", level="full")["disks"][0]["node"], "another")
        self.qmp().execute("block-export-del", id="disk", mode="hard")
        self.qmp().execute("block-export-add", type="nbd", id="disk", node_name="disk")
        self.assertEqual(self.backup("--disk", "disk", level="full")["disks"][0]["name"], "disk")     # what clients see by that name
        self.assertIn("no node 'nothing'", self.run_tidemark("backup", "backups", "--disk", "nothing", expect=FAILED).stderr)

    def assert_every_verb_finds_the_disk(self):
        """It has left the node that is called as its export is."""
        self.assertIn("disk", self.state()["nodes"])
        node, = [export["node-name"] for export in self.qmp().execute("query-block-exports")]
        self.assertNotEqual(node, "disk")
        self.change()
        point = self.backup("--disk", "disk")
        self.assertEqual([(disk["name"], disk["node"]) for disk in point["disks"]], [("disk", node)])
        self.assert_restores(point["point"], self.content())
        self.change(seed=3)
        self.assert_restores(self.backup("--disk", "disk", level="incremental")["point"], self.content())
        self.run_tidemark("checkpoint", "create", "monday", "--disk", "disk")
        self.assertEqual([disk["node"] for disk in self.json("checkpoint", "show", "monday")["disks"]], [node])
        self.run_tidemark("checkpoint", "delete", "monday", "--disk", "disk")
        self.assertEqual(self.json("checkpoint", "list"), [])
        self.run_tidemark("bitmap", "add", "disk", "new")
        self.assertEqual([row["node"] for row in self.json("bitmap", "list", "disk") if row["name"] == "new"], [node])
        self.run_tidemark("copy", "disk", "copy.qcow2")
        self.run_tidemark("image", "convert", "-O", "raw", "copy.qcow2", "copy.raw")
        self.assertEqual(first_difference((self.path / "copy.raw").read_bytes(), self.content()), None)

    def test_a_node_that_a_pull_has_left(self):
        self.raw("disk.img")
        self.serve(f"{self.path}/disk.img=disk")
        self.backup("--disk", "disk")
        self.run_tidemark("snapshot", "create", "disk", "--name", "monday")
        self.run_tidemark("snapshot", "delete", "disk", "1", "--way", "pull")
        self.assert_every_verb_finds_the_disk()

    def test_a_node_that_a_copy_has_left(self):
        self.raw("disk.img")
        self.serve(f"{self.path}/disk.img=disk")
        self.backup("--disk", "disk")
        self.run_tidemark("bitmap", "add", "disk", "mine")
        self.run_tidemark("chain", "copy", "disk", "new.qcow2", "--format", "qcow2", "--pivot")
        self.assert_every_verb_finds_the_disk()
        self.run_tidemark("bitmap", "remove", "disk", "mine")          # which the disk has not
        self.assertNotIn("mine", [row["name"] for row in self.json("bitmap", "list")])

    def test_a_disk_behind_a_filter_that_is_written_below_it(self):
        self.qcow2("disk.qcow2")
        self.serve(f"{self.path}/disk.qcow2=image")
        client = self.qmp()
        client.execute("object-add", qom_type="throttle-group", id="g")
        client.execute("blockdev-add", driver="throttle", node_name="limited", file="image", throttle_group="g")
        client.execute("block-export-add", type="nbd", id="disk", node_name="limited", name="disk", writable=True)
        for disk in ("disk", "limited", "image"):
            words = ("--disk", f"{disk}={disk}")
            self.backup(*words, "--checkpoint", f"{disk}-monday", level="full")
            for name in ("disk", "image"):
                self.change(name, seed=len(disk))
                self.assert_restores(self.backup(*words, level="incremental")["point"], self.content("image"), disk)
            self.change("image", seed=99)
            point = self.backup(*words, "--since", f"{disk}-monday", level="incremental")["point"]
            self.assert_restores(point, self.content("image"), disk)
            client.execute("checkpoint-delete", name=f"{disk}-monday")
        self.assertEqual([one["name"].split(":")[-1] for one in self.json("bitmap", "list", "image")], ["image"])
        self.backup(level="incremental")                   # all that is exported: two exports of one disk

    def test_why_a_backup_is_full(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")

        def reason(*words):
            return self.backup(*words)["disks"][0]["full-reason"]

        self.assertEqual(reason(), "there is no earlier point")
        self.assertIsNone(reason())
        self.assertEqual(reason("--level", "full"), "asked for")
        self.run_tidemark("bitmap", "disable", "disk", self.json("bitmap", "list", "disk")[0]["name"])
        self.assertIn("does not record", reason())
        self.lab.stop(self.daemon)
        (self.path / "disk.img.tidemark").unlink()
        self.serve("disk.img=disk")
        self.assertIn("has no bitmap since point", reason())
        self.lab.stop(self.daemon)
        os.truncate(self.path / "disk.img", 9 * MiB)
        self.serve("disk.img=disk")
        text = self.run_tidemark("backup", "backups").stdout
        self.assertIn("full (the disk has 9437184 bytes, it had 8388608 at point ", text)
        os.truncate(self.path / "disk.img", 8 * MiB)
        self.lab.stop(self.daemon)
        self.serve("disk.img=disk")
        self.assertIn("the disk has 8388608 bytes, it had 9437184 at point ", reason())
        self.assert_restores("latest", self.content())


class SeveralDisks(Bed):
    def test_raw_and_qcow2_in_one_point(self):
        self.raw("a.img", seed=1)
        self.qcow2("b.qcow2", seed=2)
        self.serve("a.img=a", "b.qcow2=b")
        taken = []
        for seed in range(3):
            point = self.backup(level="incremental" if seed else "full")
            taken.append((point["point"], self.content("a"), self.content("b")))
            self.change("a", seed)
            self.change("b", seed + 10)
        for point, a, b in taken:
            self.assert_restores(point, a, "a")
            self.assert_restores(point, b, "b")
        self.assertIn("several disks (a, b)", self.fails("restore", "backups", "--to", "x.img"))
        self.assertIn("holds no disk 'c'", self.fails("restore", "backups", "--to", "x.img", "--disk", "c"))
        self.assertEqual(len(self.json("verify", "backups", "--all")), 6)

    def test_disks_that_change_places_are_not_built_on_each_other(self):
        self.raw("a.img", seed=1)
        self.raw("b.img", seed=2)
        self.serve("a.img=one", "b.img=two")
        self.backup("--checkpoint", "monday", level="full")
        self.backup("--since", "monday", level="incremental")
        self.assertIn("nothing shows", self.fails("backup", "backups", "--since", "monday", "--disk", "one=two", "--disk", "two=one"))
        exchanged = self.backup("--disk", "one=two", "--disk", "two=one", level="full")["point"]
        self.assert_restores(exchanged, self.content("one"), "two")
        self.backup(level="full")
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        self.serve("b.img=one", "a.img=two")
        self.assertIn("has no bitmap since point", self.fails("backup", "backups", "--level", "incremental"))
        self.assertIn("nothing shows", self.fails("backup", "backups", "--since", "monday"))
        point = self.backup(level="full")["point"]
        for disk in ("one", "two"):
            self.assert_restores(point, self.content(disk), disk)
        self.change("one")
        point = self.backup(level="incremental")["point"]
        self.assert_restores(point, self.content("one"), "one")

    def test_since_a_checkpoint_after_a_full_backup(self):
        self.raw("a.img", seed=1)
        self.raw("b.img", seed=2)
        self.serve("a.img=a", "b.img=b")
        self.backup("--checkpoint", "monday", level="full")
        self.change("a")
        self.backup("--level", "full", level="full")
        self.change("b")
        point = self.backup("--since", "monday", level="incremental")["point"]
        for disk in "ab":
            self.assert_restores(point, self.content(disk), disk)

    def test_since_a_checkpoint_that_is_taken_anew_at_that_moment(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup("--checkpoint", "monday", level="full")
        self.change()
        before, real = self.state(), self.qmp()

        def answer(command, arguments):
            if command == "transaction":
                real.execute("checkpoint-delete", name="monday")
                real.execute("checkpoint-create", name="monday", disks=["disk"])
            real.send(command, **arguments)
            return [real.answer()]

        monitor = Monitor(self.path / "between.sock", answer)
        self.addCleanup(monitor.close)
        self.lab.env["TIDEMARK_QMP"] = "between.sock"
        self.assertIn("taken anew", self.fails("backup", "backups", "--since", "monday"))
        after = self.state()
        for key in ("points", "jobs", "nodes", "count"):
            self.assertEqual(after[key], before[key])

    def test_disks_are_chosen_and_named(self):
        self.raw("a.img", seed=1)
        self.raw("b.img", seed=2)
        self.serve("a.img=a", "b.img=b")
        point = self.backup("--disk", "b=data")
        self.assertEqual([(disk["name"], disk["node"]) for disk in point["disks"]], [("data", "b")])
        self.assert_restores(point["point"], self.content("b"))
        self.assertIn("no node 'c'", self.fails("backup", "backups", "--disk", "c"))

    def test_a_disk_without_a_size(self):
        self.raw("disk.img")
        (self.path / "empty.img").touch()
        self.serve("empty.img=empty", "disk.img=disk")
        done = self.run_tidemark("backup", "backups")
        self.assertEqual(done.stderr, "tidemark: disk 'empty' has no size: it is left out\n")
        self.assertEqual([disk["name"] for disk in self.backup(level="incremental")["disks"]], ["disk"])
        self.assertIn("disk 'empty' (node 'empty') has no size", self.fails("backup", "backups", "--disk", "empty"))
        self.qmp().execute("block-export-del", id="disk", mode="hard")
        self.qmp().execute("block-export-del", id="empty", mode="hard")
        self.qmp().execute("block-export-add", type="nbd", id="disk", node_name="empty", name="disk", writable=True)
        self.assertIn("disk 'disk' (node 'empty') has no size", self.fails("backup", "backups"))      # it had one

    def test_names_that_are_not_utf_8(self):
        self.raw("disk.img")
        self.serve(f"{self.path}/disk.img=disk")
        before = self.state()
        bad = os.fsdecode(b"n\xff")
        for words in (("backup", bad), ("chain", "copy", "disk", bad), ("snapshot", "create", f"disk={bad}.qcow2"),
                      ("snapshot", "create", "disk", "--name", bad)):
            with self.subTest(words=ascii(words)):
                told = self.fails(*words)
                self.assertRegex(told, r"\\xff.*is not UTF-8.*choose another name")
                self.assertEqual(self.state(), before)
                self.assertEqual(sorted(path.name for path in self.path.iterdir()), ["disk.img", "nbd.sock", "qmp.sock"])

    def test_all_disks_are_of_one_moment(self):
        """A counter goes to one disk, then the other: no point may hold the second one's ahead of the first."""
        self.raw("a.img", 2 * MiB)
        self.raw("b.img", 2 * MiB)
        self.serve("a.img=a", "b.img=b")
        going = threading.Event()

        def count():
            a, b, n = self.disk("a"), self.disk("b"), 0
            while not going.is_set():
                n += 1
                a.pwrite(n.to_bytes(512, "big"), 0)
                b.pwrite(n.to_bytes(512, "big"), 0)

        counter = threading.Thread(target=count, daemon=True)
        counter.start()
        try:
            points = [self.backup()["point"] for _ in range(5)]
        finally:
            going.set()
            counter.join(10)
        before = -1
        for point in points:
            a, b = (int.from_bytes(self.restored(point, disk)[:512], "big") for disk in ("a", "b"))
            if before >= 0:                     # the first point may be from before the first write
                self.assertIn(a - b, (0, 1))
                self.assertGreaterEqual(a, before)
            before = a

    def test_read_only_disks_are_left_out(self):
        self.raw("a.img")
        self.serve("a.img=a", options=["--read-only"])
        self.assertIn("exports no writable disk", self.fails("backup", "backups"))
        self.assertEqual(self.names_of_points(), [])


class WhileWritten(Bed):
    def test_threads_backend(self):
        """The command line on the other backend reads and writes the same directories."""
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup()
        self.change()
        self.run_tidemark("--aio", "threads", "backup", "backups")
        self.run_tidemark("--aio", "threads", "verify", "backups", "--all")
        self.run_tidemark("--aio", "threads", "restore", "backups", "--to", "x.img")
        self.assertEqual(first_difference((self.path / "x.img").read_bytes(), self.content()), None)


if __name__ == "__main__":
    unittest.main()
