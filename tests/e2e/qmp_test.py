"""`tidemark qmp`: arguments are what the schema says, on the command line and on standard input."""
import json
import signal
import struct
import subprocess
import unittest

from bed import DONE, FAILED, INTERRUPTED, USAGE, Bed, MiB, first_difference
from lab.qmp import QmpError


class Arguments(Bed):
    def setUp(self):
        super().setUp()
        self.raw("disk.img", 1 * MiB)
        self.serve("disk.img=disk")

    def bitmaps(self):
        return {entry["name"]: entry for entry in self.json("bitmap", "list", "disk")}

    def test_strings_that_look_like_something_else(self):
        for name in ("5", "true", "null", "[]", '"x"', "a,b", "1.5", "on", "c=d", "{"):
            self.run_tidemark("qmp", "block-dirty-bitmap-add", "node=disk", f"name={name}")
            self.assertIn(name, self.bitmaps())
            self.run_tidemark("qmp", "block-dirty-bitmap-remove", "node=disk", f"name={name}")
        self.assertEqual(self.bitmaps(), {})

    def test_words_in_brackets(self):
        """They are names as any other, not lists."""
        names = "[x,y]", "[x]", "[]", " [x,y]", "  [ ]", "x", "y"
        for name in names:
            self.run_tidemark("bitmap", "add", "disk", name)
        self.assertEqual(set(self.bitmaps()), set(names))
        handle = self.disk()
        for name in names[:5]:
            self.run_tidemark("bitmap", "add", "disk", "target")
            self.run_tidemark("bitmap", "clear", "disk", name)
            handle.pwrite(bytes(65536), 0)
            self.run_tidemark("bitmap", "clear", "disk", "x")
            self.run_tidemark("bitmap", "clear", "disk", "y")
            self.run_tidemark("bitmap", "clear", "disk", "target")
            self.run_tidemark("bitmap", "merge", "disk", "target", name)
            self.assertEqual(self.bitmaps()["target"]["count"], 65536, name)
            self.run_tidemark("bitmap", "remove", "disk", "target")
        for disk in (["--disk=[x,y]"], ["--disk", "[x,y]"]):
            self.assertIn("'[x,y]'", self.fails("checkpoint", "create", "c", *disk))

    def test_numbers_and_booleans(self):
        self.run_tidemark("qmp", "block-dirty-bitmap-add", "node=disk", "name=a", "granularity=4096", "disabled=on")
        self.assertEqual(self.bitmaps()["a"]["granularity"], 4096)
        self.assertFalse(self.bitmaps()["a"]["recording"])
        self.assertIn("granularity", self.fails("qmp", "block-dirty-bitmap-add", "node=disk", "name=b", "granularity=x", expect=USAGE))
        self.assertIn("disabled", self.fails("qmp", "block-dirty-bitmap-add", "node=disk", "name=b", "disabled=1", expect=USAGE))
        self.assertIn("nonsense", self.fails("qmp", "block-dirty-bitmap-add", "node=disk", "name=b", "nonsense=1", expect=USAGE))
        self.assertIn("name", self.fails("qmp", "block-dirty-bitmap-add", "node=disk", "name", expect=USAGE))

    def test_nested_keys_and_lists(self):
        self.raw("one, two.img", 1 * MiB)
        self.run_tidemark("qmp", "blockdev-add", "driver=raw", "node-name=n1", "read-only=on", "file.driver=file",
                          "file.filename=one, two.img")
        nodes = json.loads(self.run_tidemark("qmp", "query-named-block-nodes", "flat=on").stdout)
        self.assertEqual([node["ro"] for node in nodes if node["node-name"] == "n1"], [True])
        for name in ("a", "b", "all"):
            self.run_tidemark("bitmap", "add", "disk", name)
        self.run_tidemark("qmp", "block-dirty-bitmap-merge", "node=disk", "target=all", "bitmaps.0=a", "bitmaps.1=b")

    def test_json_is_taken_as_it_is(self):
        self.run_tidemark("qmp", "block-dirty-bitmap-add", '{"node": "disk", "name": "a", "granularity": 8192}')
        self.assertEqual(self.bitmaps()["a"]["granularity"], 8192)
        self.assertIn("JSON", self.fails("qmp", "block-dirty-bitmap-add", '{"node": ', expect=USAGE))
        self.assertIn("standard input", self.fails("qmp", '{"execute": "quit"}', expect=USAGE))

    def test_commands_that_are_not_known_here(self):
        self.assertIn("JSON object", self.fails("qmp", "x-nonsense", "a=1", expect=USAGE))
        self.assertIn("x-nonsense", self.fails("qmp", "x-nonsense", '{"a": 1}'))
        self.assertIn("x-nonsense", self.fails("qmp", "x-nonsense"))

    def test_standard_input(self):
        lines = ("block-dirty-bitmap-add node=disk name=7 granularity=65536\n"
                 '{"execute": "block-dirty-bitmap-add", "arguments": {"node": "disk", "name": "8"}}\n')
        done = subprocess.run([self.tidemark, "qmp"], cwd=self.path, env=self.lab.env, input=lines, text=True, timeout=30,
                              capture_output=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (DONE, '{"return": {}}\n' * 2, ""))
        self.assertEqual({name: entry["granularity"] for name, entry in self.bitmaps().items()}, {"7": 65536, "8": 65536})
        done = subprocess.run([self.tidemark, "qmp"], cwd=self.path, env=self.lab.env, input="quit nonsense=1\n", text=True,
                              timeout=30, capture_output=True)
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (FAILED, 1))
        done = subprocess.run([self.tidemark, "qmp"], cwd=self.path, env=self.lab.env, input=' {"execute": "query-jobs"} \r\n\n\tquery-jobs', text=True,
                              timeout=30, capture_output=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (DONE, '{"return": []}\n' * 2, ""))

    def test_a_drive_backup_that_is_refused_leaves_no_file(self):
        with self.qmp() as client:
            for change in ({"bitmap": "none", "sync": "incremental"}, {"sync": "incremental"}, {"filter-node-name": "disk"},
                           {"compress": True, "format": "raw"}, {"format": "none"}, {"x-perf": {"max-chunk": -1}}):
                arguments = {"device": "disk", "job-id": "job", "target": "new.img", "sync": "full"} | change
                self.assertRaises(QmpError, client.execute, "drive-backup", **arguments)
                self.assertFalse((self.path / "new.img").exists(), change)

    def test_a_drive_backup_that_is_refused_leaves_an_existing_file_as_it_was(self):
        content = self.raw("kept.img", 1 * MiB).read_bytes()
        self.raw("small.img", 1 * MiB)
        with self.qmp() as client:
            client.execute("blockdev-add", driver="raw", node_name="small", file={"driver": "file", "filename": "small.img"})
            backup = {"device": "disk", "job-id": "job", "target": "kept.img", "sync": "full"}
            for change in ({"sync": "incremental"}, {"bitmap": "none", "sync": "incremental"}, {"filter-node-name": "disk"},
                           {"compress": True, "format": "raw"}, {"format": "none"}, {"x-perf": {"max-chunk": 4096}},
                           {"job-id": "1"}, {"speed": -1}, {"spill-directory": "/nowhere"}, {"target": "small.img"}):
                path = self.path / change.get("target", "kept.img")
                self.assertRaises(QmpError, client.execute, "drive-backup", **backup | change)
                self.assertEqual(path.read_bytes(), content, change)
                action = {"type": "drive-backup", "data": backup | change}
                self.assertRaises(QmpError, client.execute, "transaction", actions=[action])
                self.assertEqual(path.read_bytes(), content, change)
            first = {"type": "drive-backup", "data": backup}
            fresh = {"type": "drive-backup", "data": backup | {"job-id": "job2", "target": "fresh.img"}}
            for last in ({"type": "abort", "data": {}}, {"type": "block-dirty-bitmap-clear", "data": {"node": "disk", "name": "?"}},
                         {"type": "drive-backup", "data": backup | {"job-id": "job2", "target": "nowhere/new.img"}},
                         {"type": "drive-backup", "data": backup | {"job-id": "job2", "device": "small", "target": "small.img"}}):
                self.assertRaises(QmpError, client.execute, "transaction", actions=[first, fresh, last])
                self.assertEqual((self.path / "kept.img").read_bytes(), content, last)
                self.assertFalse((self.path / "fresh.img").exists(), last)
                self.assertEqual(client.execute("query-jobs"), [])
            nodes = len(client.execute("query-named-block-nodes"))
            for form in ("raw", "qcow2"):
                client.execute("drive-backup", **backup | {"format": form, "auto-dismiss": False})
                self.assertNotIn("error", client.wait_job("job"))
                self.lab.run("qemu-img", "compare", "-f", "raw", "-F", form, "-U", "disk.img", "kept.img")
            self.assertEqual(len(client.execute("query-named-block-nodes")), nodes)

    def test_an_image_that_cannot_be_made_leaves_the_file_as_it_was(self):
        kept = self.raw("kept.img", 1 * MiB)
        content = kept.read_bytes()
        file = {"driver": "file", "filename": "kept.img"}
        with self.qmp() as client:
            for options in (file | {"size": 1 << 62}, file | {"size": 1 << 63}, file | {"size": 1 << 62, "preallocation": "falloc"},
                            {"driver": "qcow2", "file": file, "size": 1 << 62}, {"driver": "qcow2", "file": file, "size": 513},
                            {"driver": "qcow2", "file": file, "size": MiB, "cluster-size": 3},
                            {"driver": "qcow2", "file": file, "size": MiB, "refcount-bits": 3},
                            {"driver": "qcow2", "file": file, "size": MiB, "backing-fmt": "raw"}):
                client.execute("blockdev-create", job_id="job", options=options)
                self.assertIn("error", client.wait_job("job"), options)
                self.assertEqual(first_difference(kept.read_bytes(), content), None, options)

    def corrupt_image(self):
        """bad.qcow2, whose first cluster is not where one can be."""
        (self.path / "bad.qcow2").unlink(missing_ok=True)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "bad.qcow2", "1M")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write 0 128k", "bad.qcow2")
        with open(self.path / "bad.qcow2", "r+b") as image:
            entry_at = 40                                    # of the L1 table's place; then of its first entry; then of the L2 table's
            for _ in range(2):
                image.seek(entry_at)
                entry_at = struct.unpack(">Q", image.read(8))[0] & 0x00fffffffffffe00
            image.seek(entry_at)
            entry = struct.unpack(">Q", image.read(8))[0]
            image.seek(entry_at)
            image.write(struct.pack(">Q", entry + 512))

    def test_an_image_that_is_corrupt_is_told_of(self):
        with self.qmp() as client:
            client.execute("blockdev-add", driver="null-co", node_name="null", size=MiB)
            for read_anew in (False, True):
                self.corrupt_image()
                client.execute("blockdev-add", driver="qcow2", node_name="bad", file={"driver": "file", "filename": "bad.qcow2"})
                for active in (False, True) if read_anew else ():
                    client.execute("blockdev-set-active", node_name="bad", active=active)
                client.events.clear()
                for _ in range(2):
                    client.execute("blockdev-backup", job_id="job", device="bad", target="null", sync="full", auto_dismiss=False)
                    client.wait_job("job")
                told = [event["data"] for event in client.events if event["event"] == "BLOCK_IMAGE_CORRUPTED"]
                self.assertEqual([(event["device"], event["node-name"], event["fatal"]) for event in told], [("", "bad", True)])
                self.assertIn("corrupt", told[0]["msg"])
                client.execute("blockdev-del", node_name="bad")

    def test_making_a_large_file_can_be_cancelled(self):
        file = {"driver": "file", "filename": "large.img", "size": 2 << 30, "preallocation": "full"}
        with self.qmp() as client:
            client.execute("blockdev-create", job_id="job", options=file)
            client.execute("job-cancel", id="job")
            self.assertEqual(client.wait_job("job")["error"], "Operation canceled")
            self.assertFalse((self.path / "large.img").exists())

    def test_an_image_is_made_on_a_node_without_a_name(self):
        file = {"driver": "file", "filename": "made.img"}
        self.raw("made.img", 1 * MiB)
        with self.qmp() as client:
            for options in ({"file": file | {"node-name": "n"}}, {"file": {"driver": "raw", "file": file | {"node-name": "n"}}}):
                with self.assertRaisesRegex(QmpError, "node 'n' cannot have a name"):
                    client.execute("blockdev-create", job_id="job", options={"driver": "qcow2", "size": MiB} | options)
            client.execute("blockdev-create", job_id="job", options={"driver": "qcow2", "size": MiB, "file": file})
            self.assertNotIn("error", client.wait_job("job"))

    def test_a_bitmap_too_large_to_be_hashed_holds_nobody_up(self):
        with self.qmp() as client:
            client.execute("blockdev-add", driver="null-co", node_name="huge", size=1 << 62)
            client.execute("block-dirty-bitmap-add", node="huge", name="a", granularity=65536)
            with self.assertRaisesRegex(QmpError, "too many to be hashed"):
                client.execute("x-debug-block-dirty-bitmap-sha256", node="huge", name="a")

    def test_interrupted_while_it_waits_for_a_command(self):
        process = self.lab.start(self.tidemark, "qmp", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True)
        process.stdin.write("query-jobs\nquery-j")
        process.stdin.flush()
        self.assertEqual(process.stdout.readline(), '{"return": []}\n')
        process.send_signal(signal.SIGINT)
        process.wait(5)
        self.assertEqual((self.end_of(process)[0::2]), (INTERRUPTED, "tidemark: interrupted\n"))


if __name__ == "__main__":
    unittest.main()
