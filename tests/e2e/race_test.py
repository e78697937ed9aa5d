"""Commands that come while something else is under way: neither is lost, and none is taken for the other."""
import time
import unittest

import nbd
from bed import KiB, Bed, MiB
from lab import processes
from lab.qmp import QmpError

SLOW = 1_000_000_000                        # nanoseconds: far longer than a command takes


class Races(Bed):
    def start(self, *options):
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock", *options)
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        return self.qmp()


class BitmapsUnderAWrite(Races):
    """A bitmap that begins to record while a write is under way has it, or begins when it is over."""

    def begin(self, command, bitmap, **made):
        client = self.start("--blockdev", "memory,node-name=below,size=1048576",
                            "--blockdev", f"fault,node-name=disk,file=below,rules.0.operation=write,rules.0.errno=0,rules.0.latency-ns={SLOW}",
                            "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on",
                            "--export", "nbd,id=below,node-name=below,name=below")

        def count(name):
            nodes = {node["node-name"]: node for node in client.execute("query-named-block-nodes")}
            return next(entry["count"] for entry in nodes["disk"]["dirty-bitmaps"] if entry["name"] == name)

        client.execute("block-dirty-bitmap-add", node="disk", name="old")
        if made:
            client.execute("block-dirty-bitmap-add", node="disk", name=bitmap, **made)
        guest, below, ended = self.disk(), self.disk("below"), []
        data = b"x" * 4096
        guest.aio_pwrite(data, 64 * KiB, completion=lambda error: ended.append(error.value) or 1)
        self.until(lambda: guest.poll(1) >= 0 and count("old"), "a write under way")
        client.execute(command, node="disk", name=bitmap)
        dirty, present = count(bitmap), below.pread(len(data), 64 * KiB)
        self.until(lambda: guest.poll(100) >= 0 and ended, "the end of the write")
        self.assertEqual(ended, [0])
        self.assertTrue(dirty or count(bitmap) or present == data, "a write is missing that ended after the bitmap began")

    def test_added(self):
        self.begin("block-dirty-bitmap-add", "new")

    def test_cleared(self):
        self.begin("block-dirty-bitmap-clear", "old")

    def test_enabled(self):
        self.begin("block-dirty-bitmap-enable", "new", disabled=True)


class NodesThatGo(Races):
    """A node that goes with its last user is there until a command that has found it is over."""

    def serve(self):
        for name in ("a", "o", "z"):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "64M")
        client = self.start()
        for name in ("a", "o", "z"):
            client.execute("blockdev-add", driver="qcow2", node_name=name, file={"driver": "file", "filename": f"{name}.qcow2"},
                           **({"backing": None} if name == "o" else {}))
        client.execute("block-export-add", type="nbd", id="e", node_name="a", name="e", writable=True)
        client.execute("blockdev-snapshot-sync", node_name="a", snapshot_file="top.qcow2", snapshot_node_name="top")
        guest = self.disk("e")
        guest.pwrite(b"x" * (8 * MiB), 0)
        return client

    def told_with_the_last_user(self, command, **arguments):
        client = self.serve()
        client.send("block-export-del", id="e", mode="hard")
        client.send(command, **arguments)
        for _ in range(2):
            client.answer()                      # whatever it is
        self.until(lambda: not client.execute("query-block-exports"), "the end of the export")
        if command == "blockdev-snapshot":
            client.execute("blockdev-del", node_name="o")
        for job in client.execute("query-jobs"):
            client.execute("job-cancel", id=job["id"])
        self.until(lambda: not client.execute("query-jobs"), "the end of the job")
        self.until(lambda: "top" not in [node["node-name"] for node in client.execute("query-named-block-nodes")], "the end of the node")
        client.execute("quit")
        self.assertEqual(self.daemon.wait(20), 0)
        self.lab.ended(self.daemon)

    def test_snapshot(self):
        self.told_with_the_last_user("blockdev-snapshot", node="top", overlay="o")

    def test_drive_backup(self):
        self.told_with_the_last_user("drive-backup", job_id="j", device="top", target="t.qcow2", sync="full")

    def test_drive_mirror(self):
        self.told_with_the_last_user("drive-mirror", job_id="j", device="top", target="t.qcow2", sync="full")

    def test_commit(self):
        self.told_with_the_last_user("block-commit", job_id="j", device="top")

    def test_bitmap(self):
        self.told_with_the_last_user("block-dirty-bitmap-add", node="top", name="b", persistent=True)

    def test_the_node_of_a_backup_s_bitmap(self):
        """A snapshot is taken below its filter, and the overlay pulls all that is in it."""
        for name in ("s", "o"):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "1M")
        self.lab.env["MALLOC_PERTURB_"] = "165"
        client = self.start("--object", "throttle-group,id=g", "--blockdev", "throttle,node-name=disk,throttle-group=g,file.driver=qcow2,"
                            "file.node-name=s,file.file.driver=file,file.file.filename=s.qcow2", "--blockdev",
                            "qcow2,node-name=o,file.driver=file,file.filename=o.qcow2", "--blockdev",
                            "null-co,node-name=t,size=1048576")
        client.execute("block-dirty-bitmap-add", node="s", name="b")
        client.execute("block-export-add", type="nbd", id="e", node_name="disk", name="e", writable=True)
        self.disk("e").pwrite(b"x" * 512 * KiB, 0)
        client.execute("blockdev-backup", job_id="j", device="s", target="t", sync="bitmap", bitmap="b", bitmap_mode="on-success", speed=64 * KiB)
        client.execute("blockdev-snapshot", node="s", overlay="o")
        client.execute("block-stream", job_id="pull", device="o")
        self.until(lambda: [job["id"] for job in client.execute("query-jobs")] == ["j"], "the end of the other job")
        self.assertNotIn("s", [node["node-name"] for node in client.execute("query-named-block-nodes")])
        client.execute("job-cancel", id="j")
        self.until(lambda: not client.execute("query-jobs"), "the end of the job")
        self.assertEqual(self.disk("e").pread(512 * KiB, 0), b"x" * 512 * KiB)

    def test_a_transaction_that_fails(self):
        self.told_with_the_last_user("transaction", actions=[
            {"type": "blockdev-backup", "data": {"job-id": "j", "device": "top", "target": "o", "sync": "full"}},
            {"type": "blockdev-snapshot-sync", "data": {"node-name": "z", "snapshot-file": "zz.qcow2", "snapshot-node-name": "zz"}},
            {"type": "abort", "data": {}}])

    def test_a_group_that_fails(self):
        self.told_with_the_last_user("transaction", properties={"completion-mode": "grouped"}, actions=[
            {"type": "block-dirty-bitmap-add", "data": {"node": "top", "name": "b"}},
            {"type": "block-dirty-bitmap-add", "data": {"node": "o", "name": "b", "persistent": True}},
            {"type": "abort", "data": {}}])


class ExportsThatEnd(Races):
    def serve_slow(self):
        """An export whose node goes with it, and takes its time."""
        slow = {"driver": "fault", "file": {"driver": "file", "filename": "a.qcow2"},
                "rules": [{"operation": "flush", "errno": 0, "latency-ns": SLOW}]}
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        client = self.start("--blockdev", "memory,node-name=other,size=1048576")
        client.execute("blockdev-add", driver="raw", node_name="top", file={"driver": "qcow2", "node-name": "image", "file": slow})
        client.execute("block-export-add", type="nbd", id="e", node_name="image", name="e", writable=True)
        guest = self.disk("e")
        guest.pwrite(b"x" * 4096, 0)
        guest.shutdown()
        client.execute("blockdev-del", node_name="top")
        client.execute("block-export-del", id="e", mode="hard")
        return client

    def test_an_export_is_listed_until_its_id_is_free(self):
        client = self.serve_slow()
        self.until(lambda: not client.execute("query-block-exports"), "the end of the export")
        client.execute("block-export-add", type="nbd", id="e", node_name="other", name="e")

    def test_the_end_of_an_export_is_not_that_of_the_next_of_its_name(self):
        client = self.serve_slow()
        client.execute("nbd-server-stop")
        client.execute("nbd-server-start", addr={"type": "unix", "data": {"path": "nbd.sock"}})
        self.until(lambda: self.add_again(client), "the end of the first export")
        self.until(lambda: client.execute("query-version") and self.deleted(client), "the news of it")
        self.assertEqual([export["node-name"] for export in client.execute("query-block-exports")], ["other"])

    def deleted(self, client):
        return [event["data"]["id"] for event in client.events if event["event"] == "BLOCK_EXPORT_DELETED"]

    def add_again(self, client):
        try:
            client.execute("block-export-add", type="nbd", id="e", node_name="other", name="e")
            return True
        except QmpError as error:
            self.assertIn("already in use", error.desc)
            return False


class JobsThatEndBesideExports(Races):
    """A job takes out its filter, and waits for a guest's slow request; the guest's export goes meanwhile, with the request."""

    def end_both(self, kind):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "top.qcow2", "16M")
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)
        other = "qcow2,node-name=top,file.driver=file,file.filename=top.qcow2,backing=slow" if kind == "stream" else \
                f"null-co,node-name=target,size={16 * 1024 * KiB}"
        client = self.start("--blockdev", f"null-co,node-name=slow,size={16 * 1024 * KiB},latency-ns=750000000", "--blockdev", other)
        disk = "top" if kind == "stream" else "slow"
        client.execute("block-export-add", type="nbd", id="disk", name="disk", writable=True, **{"node-name": disk})
        if kind == "stream":
            client.execute("block-stream", device=disk, speed=65536, **{"job-id": "j"})
        else:
            client.execute(f"blockdev-{kind}", device=disk, target="target", sync="none", **{"job-id": "j"})
        guest = self.disk()
        if kind != "backup":
            time.sleep(1.6)                      # it has begun by now
        guest.aio_pread(nbd.Buffer(4 * KiB), 8 * 1024 * KiB)
        guest.poll(50)
        client.execute("block-job-cancel", device="j", force=True)
        client.execute("block-export-del", id="disk", mode="hard")
        self.until(lambda: not client.execute("query-jobs"), "the job's end")
        nodes = {node["node-name"] for node in client.execute("query-named-block-nodes")}
        self.assertLessEqual({"slow", "top" if kind == "stream" else "target"}, nodes)
        client.execute("quit")
        self.assertEqual(self.daemon.wait(20), 0)
        self.lab.ended(self.daemon)

    def test_it_does_not_use_what_has_gone(self):
        for kind in ("backup", "mirror", "stream"):
            with self.subTest(kind=kind):
                self.end_both(kind)


class Fleecing(Races):
    """A client reads a moment of a disk from what was copied before it was overwritten, and from the disk where nothing was: never
    what the guest writes while it reads."""

    def test_a_read_that_is_under_way_when_the_guest_writes(self):
        for by_hand, above in ((False, None), (True, None), (False, "compress")):
            with self.subTest(by_hand=by_hand, above=above):
                self.raw("disk.raw", 1024 * KiB)
                (self.path / "disk.raw").write_bytes(b"1" * 1024 * KiB)
                self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "scratch.qcow2", "1M")
                for name in ("qmp.sock", "nbd.sock"):
                    (self.path / name).unlink(missing_ok=True)
                client = self.start("--blockdev", "file,node-name=file,filename=disk.raw", "--blockdev",
                                    f"fault,node-name=disk,file=file,rules.0.operation=read,rules.0.errno=0,rules.0.count=2,rules.0.latency-ns={SLOW}")
                client.execute("blockdev-add", driver="qcow2", backing="disk", file={"driver": "file", "filename": "scratch.qcow2"},
                               **{"node-name": "scratch"})
                written, target = "disk", "scratch"
                if above:
                    target = "above"
                    client.execute("blockdev-add", driver=above, file="scratch", **{"node-name": target})
                if by_hand:
                    client.execute("blockdev-add", driver="copy-before-write", file="disk", target="scratch", **{"node-name": "cbw"})
                    written = "cbw"
                for name, node, writable in (("disk", written, True), ("pull", "scratch", False)):
                    client.execute("block-export-add", type="nbd", id=name, name=name, writable=writable, **{"node-name": node})
                if not by_hand:
                    client.execute("blockdev-backup", device="disk", target=target, sync="none", **{"job-id": "j"})
                guest, pull, other = self.disk(), self.disk("pull"), self.disk("pull")
                first, second = nbd.Buffer(64 * KiB), nbd.Buffer(64 * KiB)
                pull.aio_pread(first, 0)
                other.aio_pread(second, 256 * KiB)
                while pull.poll(50) or other.poll(50):
                    pass
                guest.pwrite(b"2" * 64 * KiB, 0)
                guest.zero(64 * KiB, 256 * KiB)
                while pull.aio_in_flight() or other.aio_in_flight():
                    pull.poll(10)
                    other.poll(10)
                for found in (first, second):
                    self.assertEqual(bytes(found.to_bytearray()), b"1" * 64 * KiB)
                self.assertEqual(pull.pread(64 * KiB, 0), b"1" * 64 * KiB)
                for handle in (guest, pull, other):
                    handle.shutdown()
                self.daemon.kill()
                self.daemon.wait(20)
                self.lab.ended(self.daemon)

    def test_what_is_asked_about_while_the_guest_zeroes(self):
        size = 64 * MiB
        self.raw("disk.raw", size)
        (self.path / "disk.raw").write_bytes(b"1" * size)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "scratch.qcow2", size)
        client = self.start("--blockdev", "file,node-name=disk,filename=disk.raw,discard=unmap", "--blockdev",
                            "qcow2,node-name=scratch,backing=disk,file.driver=file,file.filename=scratch.qcow2")
        for name, node, writable in (("disk", "disk", True), ("pull", "scratch", False)):
            client.execute("block-export-add", type="nbd", id=name, name=name, writable=writable, **{"node-name": node})
        client.execute("blockdev-backup", device="disk", target="scratch", sync="none", **{"job-id": "j"})
        guest, pull, wrong = self.disk(), nbd.NBD(), []
        pull.add_meta_context("base:allocation")
        pull.connect_uri(f"nbd+unix:///pull?socket={self.path / 'nbd.sock'}")

        def look(_context, offset, entries, _error):
            if any(entries[1::2]):
                wrong.append((offset, list(entries)))

        for at in range(0, size, 64 * KiB):
            guest.aio_zero(64 * KiB, at)
            while guest.aio_in_flight():
                pull.block_status(64 * KiB, at, look)
                guest.poll(0)
        self.assertEqual(wrong[:4], [])
        for handle in (guest, pull):
            handle.shutdown()


class RawDataFile(Races):
    """A write and a zeroing of the same bytes: whichever wins, the data file says it too."""

    def test_a_zeroing_beside_a_write(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=d.raw,data_file_raw=on", "disk.qcow2", "1M")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 1M", "disk.qcow2")
        client = self.start("--blockdev", "qcow2,node-name=disk,discard=unmap,file.driver=file,file.filename=disk.qcow2,data-file.driver=fault,"
                            "data-file.rules.0.operation=write,data-file.rules.0.errno=0,data-file.rules.0.latency-ns=50000000,"
                            "data-file.file.driver=file,data-file.file.filename=d.raw")
        client.execute("block-export-add", type="nbd", id="e", node_name="disk", name="disk", writable=True)
        for name in ("aio_zero", "aio_trim"):
            guest = self.disk()
            guest.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"3" * 64 * KiB)), 64 * KiB)
            while guest.poll(20):
                pass
            getattr(guest, name)(64 * KiB, 64 * KiB)
            while guest.aio_in_flight():
                guest.poll(-1)
            self.assertEqual((self.path / "d.raw").read_bytes() == guest.pread(MiB, 0), True, name)
            guest.shutdown()


if __name__ == "__main__":
    unittest.main()
