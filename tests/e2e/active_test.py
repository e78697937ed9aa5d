"""Images that go over to another program and come back: an inactive node keeps nobody away, and believes nothing that it read
before."""
import json
import os
import subprocess
import unittest

from bed import KiB, MiB, Bed
from lab import processes
from lab.qmp import Qmp, QmpError

DISK = 4 * MiB


class Active(Bed):
    def setUp(self):
        super().setUp()
        self.raw("disk.raw", DISK)
        self.qcow2("disk.qcow2", DISK)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2", "top.qcow2")
        self.here = self.daemon_of("here")
        self.daemon = self.started

    def daemon_of(self, name):
        """A daemon of its own: its monitor at NAME.sock, its NBD server at NAME.nbd."""
        self.started = daemon = self.lab.start(*getattr(self, "bound", ()), self.tidemarkd, "--chardev", f"socket,id=c,path={name}.sock,server=on,wait=off", "--monitor", "c",
                                "--nbd-server", f"addr.type=unix,addr.path={name}.nbd")
        for path in (f"{name}.sock", f"{name}.nbd"):
            processes.wait_for_socket(self.path / path, daemon)
        client = Qmp(self.path / f"{name}.sock")
        self.addCleanup(client.close)
        return client

    def add(self, client, kind, image=None, **more):
        client.execute("blockdev-add", driver=kind, **{"node-name": "disk"}, file={"driver": "file", "filename": image or f"disk.{kind}"}, **more)

    def export(self, client, inactive=True, **more):
        client.execute("block-export-add", type="nbd", id="e", **{"node-name": "disk", "name": "disk", "writable": True,
                                                                   "allow-inactive": inactive}, **more)

    def io(self, name, *commands):
        words = [word for command in commands for word in ("-c", command)]
        return self.lab.run("qemu-io", "-f", "raw", *words, f"nbd+unix:///disk?socket={self.path / name}.nbd", ok=None)

    def node(self, client):
        nodes = client.execute("query-named-block-nodes")
        return next(node for node in nodes if node["node-name"] == "disk")

    def set(self, client, active, **more):
        client.execute("blockdev-set-active", active=active, **more)

    def refused(self, why, call, *words, **more):
        with self.assertRaisesRegex(QmpError, why):
            call(*words, **more)

    def test_what_cannot_be_written_is_only_read_once_it_is_active(self):
        """As with auto-read-only of a node that is active from the beginning."""
        (self.path / "disk.raw").chmod(0o444)
        self.bound = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override") if os.geteuid() == 0 else ()
        client = self.daemon_of("bound")
        for more in ({}, {"auto-read-only": True}):
            client.execute("blockdev-add", driver="file", filename="disk.raw", active=False, **{"node-name": "disk"}, **more)
            if not more:
                self.refused("Permission denied", self.set, client, True)
            for _ in range(2 if more else 0):
                self.set(client, True)
                self.assertTrue(self.node(client)["active"])
                self.refused("Permission denied", self.export, client)
                self.set(client, False)
            client.execute("blockdev-del", **{"node-name": "disk"})
        # A node above it is as if both had been opened active.
        client.execute("blockdev-add", driver="raw", active=False, **{"node-name": "disk", "auto-read-only": True},
                       file={"driver": "file", "filename": "disk.raw"})
        self.refused("", self.set, client, True)
        self.assertFalse(self.node(client)["active"])

    def test_what_a_server_only_shows_is_only_read(self):
        self.add(self.here, "raw", **{"read-only": True})
        self.here.execute("block-export-add", type="nbd", id="e", **{"node-name": "disk", "name": "disk"})
        client = self.daemon_of("there")
        there = {"driver": "nbd", "export": "disk", "server": {"type": "unix", "path": "here.nbd"}, "node-name": "disk", "active": False}
        self.refused("denied for read-only export", client.execute, "blockdev-add", **there)
        client.execute("blockdev-add", **there, **{"auto-read-only": True})
        self.set(client, True)
        self.assertTrue(self.node(client)["ro"])
        self.refused("read-only", self.export, client)

    def test_an_export_that_comes_to_nothing_leaves_it_inactive(self):
        self.add(self.here, "raw", active=False)
        self.here.execute("blockdev-add", driver="qcow2", node_name="other", file={"driver": "file", "filename": "disk.qcow2"})
        self.here.execute("block-export-add", type="nbd", id="taken", node_name="other", name="taken")

        def active():
            return {node["node-name"]: node["active"] for node in self.here.execute("query-named-block-nodes")}

        before = active()
        self.assertFalse(before["disk"])
        export = {"type": "nbd", "id": "e", "node-name": "disk", "writable": True}
        self.refused("already has export named", self.here.execute, "block-export-add", **{**export, "name": "taken"})
        self.assertEqual(active(), before)
        self.refused("already has export named", self.here.execute, "transaction",
                     actions=[{"type": "block-export-add", "data": {**export, "name": "taken"}}])
        self.assertEqual(active(), before)
        self.refused("Abort", self.here.execute, "transaction", actions=[
            {"type": "block-export-add", "data": export}, {"type": "block-export-add", "data": {**export, "id": "f", "name": "f"}},
            {"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "b", "persistent": True}}, {"type": "abort", "data": {}}])
        self.assertEqual(active(), before)
        there = self.daemon_of("there")
        self.add(there, "raw")                       # it has no locks
        there.execute("blockdev-del", node_name="disk")
        self.here.execute("transaction", actions=[{"type": "block-export-add", "data": export}])
        self.assertTrue(all(active().values()))

    def goes_over_and_comes_back(self, kind):
        there = self.daemon_of("there")
        self.add(self.here, kind)
        self.export(self.here)
        self.here.execute("block-dirty-bitmap-add", node="disk", name="kept", persistent=True, granularity=64 * KiB)
        self.here.execute("block-dirty-bitmap-add", node="disk", name="lost", granularity=64 * KiB)
        self.io("here", "write -P 1 0 64k")
        self.add(there, kind, active=False)
        self.export(there)
        self.assertFalse(self.node(there)["active"])
        self.assertFalse(self.node(there)["ro"])
        self.refused('Failed to get .*"write" lock', self.set, there, True)
        self.assertIn("not permitted", self.io("there", "write 0 64k").stdout)
        self.set(self.here, False)
        self.assertEqual([b["name"] for b in self.node(self.here)["dirty-bitmaps"]], ["lost"])
        self.assertIn("not permitted", self.io("here", "write 0 64k").stdout)
        self.assertNotIn("failed", self.io("here", "read -P 1 0 64k").stdout)

        self.set(there, True)
        self.assertTrue(self.node(there)["active"])
        self.assertEqual([(b["name"], b["count"]) for b in self.node(there)["dirty-bitmaps"]], [("kept", 64 * KiB)])
        self.assertNotIn("failed", self.io("there", "read -P 1 0 64k", "write -P 2 1M 192k").stdout)
        self.set(there, False)
        self.set(self.here, True)
        self.assertNotIn("failed", self.io("here", "read -P 2 1M 192k", "write -P 3 2M 64k", "read -P 1 0 64k").stdout)
        bitmaps = {b["name"]: b for b in self.node(self.here)["dirty-bitmaps"]}
        self.assertEqual(bitmaps["kept"]["count"], 320 * KiB)
        self.assertIn("was inactive", bitmaps["lost"]["inconsistent-reason"])

    def test_raw_goes_over_and_comes_back(self):
        self.goes_over_and_comes_back("raw")

    def test_qcow2_goes_over_and_comes_back(self):
        self.goes_over_and_comes_back("qcow2")
        self.here.execute("quit")
        self.assertEqual(self.daemon.wait(20), 0)
        self.lab.run("qemu-img", "check", "disk.qcow2")

    def test_qemu_changes_it_meanwhile(self):
        self.add(self.here, "qcow2")
        self.export(self.here)
        self.io("here", "read 0 4M")
        self.set(self.here, False, **{"node-name": "disk"})
        self.lab.run("qemu-img", "snapshot", "-c", "s", "disk.qcow2")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", "-c", "discard 1M 1M", "disk.qcow2")
        self.set(self.here, True, **{"node-name": "disk"})
        self.assertNotIn("failed", self.io("here", "read -P 7 0 1M", "read -P 0 1M 1M", "write -P 8 512k 1M").stdout)
        self.assertEqual(self.node(self.here)["image"]["snapshots"][0]["name"], "s")
        self.here.execute("quit")
        self.assertEqual(self.daemon.wait(20), 0)
        self.lab.run("qemu-img", "check", "disk.qcow2")

    def test_chains_with_their_children(self):
        self.add(self.here, "qcow2", "top.qcow2")
        self.export(self.here)
        self.set(self.here, False)
        self.assertEqual({node["active"] for node in self.here.execute("query-named-block-nodes")}, {False})
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 64k", "disk.qcow2")
        self.set(self.here, True)
        self.assertEqual({node["active"] for node in self.here.execute("query-named-block-nodes")}, {True})
        self.assertNotIn("failed", self.io("here", "read -P 5 0 64k", "write -P 6 0 64k").stdout)

    def test_another_backing_file_is_noticed(self):
        self.add(self.here, "qcow2", "top.qcow2")
        self.set(self.here, False)
        self.lab.run("qemu-img", "rebase", "-u", "-F", "raw", "-b", "disk.raw", "top.qcow2")
        self.refused("names another backing file by now", self.set, self.here, True)
        self.assertEqual({node["active"] for node in self.here.execute("query-named-block-nodes")}, {False})
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write 0 64k", "disk.qcow2")      # nothing is locked

    def test_refused(self):
        self.add(self.here, "qcow2")
        self.export(self.here, inactive=False)
        self.refused("export 'e' uses it and does not allow that", self.set, self.here, False)
        self.io("here", "write 0 64k")
        self.here.execute("block-export-del", id="e", mode="hard")
        self.here.wait_event("BLOCK_EXPORT_DELETED", id="e")
        self.here.execute("blockdev-add", driver="raw", **{"node-name": "above"}, file="disk")
        self.refused("Node 'disk' has active parent node 'above'", self.set, self.here, False, **{"node-name": "disk"})
        self.refused("node-name='none'", self.set, self.here, False, **{"node-name": "none"})
        self.set(self.here, False, **{"node-name": "above"})
        self.assertFalse(self.node(self.here)["active"])
        self.raw("target.raw", DISK)
        self.here.execute("blockdev-add", driver="file", **{"node-name": "t"}, filename="target.raw")
        self.refused("inactive", self.here.execute, "blockdev-backup", **{"job-id": "j", "device": "disk", "target": "t", "sync": "full"})
        self.refused("inactive", self.here.execute, "blockdev-add", driver="raw", **{"node-name": "other"}, file="disk")
        self.refused("inactive", self.here.execute, "blockdev-reopen", options=[{"driver": "raw", "node-name": "above", "file": "disk"}])
        self.refused("read-only", self.here.execute, "block_resize", **{"node-name": "disk", "size": DISK * 2})
        self.export(self.here, inactive=False)                       # activates it
        self.assertTrue(self.node(self.here)["active"])

    def test_the_image_is_below_a_filter(self):
        self.here.execute("object-add", **{"qom-type": "throttle-group", "id": "g"})
        self.here.execute("blockdev-add", driver="throttle", **{"node-name": "disk", "throttle-group": "g"},
                          file={"driver": "qcow2", "node-name": "image", "file": {"driver": "file", "filename": "disk.qcow2"}})
        self.here.execute("block-dirty-bitmap-add", node="image", name="kept", persistent=True, granularity=64 * KiB)
        self.export(self.here)
        for turn in range(3):
            self.io("here", f"write -P {turn} {turn}M 64k")
            self.set(self.here, False)
            self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -P 9 {turn * 1024 + 128}k 64k", "disk.qcow2")
            self.set(self.here, True)
            self.assertNotIn("failed", self.io("here", f"read -P 9 {turn * 1024 + 128}k 64k", f"read -P {turn} {turn}M 64k").stdout)
        image = next(n for n in self.here.execute("query-named-block-nodes") if n["node-name"] == "image")
        self.assertEqual(image["dirty-bitmaps"][0]["count"], 6 * 64 * KiB)
        self.here.execute("quit")
        self.assertEqual(self.daemon.wait(20), 0)
        self.lab.run("qemu-img", "check", "disk.qcow2")

    def test_it_grows_meanwhile(self):
        self.add(self.here, "qcow2")
        self.here.execute("block-dirty-bitmap-add", node="disk", name="b")
        self.set(self.here, False)
        self.lab.run("qemu-img", "resize", "-q", "disk.qcow2", 2 * DISK)
        self.set(self.here, True)
        self.export(self.here)
        self.assertNotIn("failed", self.io("here", "write -P 4 7M 64k", "read -P 4 7M 64k").stdout)

    def test_nothing_writes_to_an_inactive_image(self):
        self.add(self.here, "qcow2", "top.qcow2", active=False)
        before = (self.path / "top.qcow2").read_bytes()
        for command, words in (("change-backing-file", {"device": "disk", "image-node-name": "disk", "backing-file": "x"}),
                               ("block-stream", {"job-id": "j", "device": "disk"}),
                               ("block-commit", {"job-id": "j", "device": "disk"}),
                               ("blockdev-snapshot-internal-sync", {"device": "disk", "name": "s"}),
                               ("x-blockdev-amend", {"job-id": "j", "node-name": "disk", "options": {"driver": "qcow2", "lazy-refcounts": True}})):
            with self.subTest(command):
                self.refused("inactive|read-only|read only", self.here.execute, command, **words)
        self.assertEqual((self.path / "top.qcow2").read_bytes(), before)
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write 0 64k", "top.qcow2")       # nor is it locked

    def test_exports_that_were_there_first(self):
        self.add(self.here, "qcow2", active=False)
        self.export(self.here)
        self.assertIn("not permitted", self.io("here", "write 0 64k").stdout)
        self.here.execute("block-export-add", type="nbd", id="other", **{"node-name": "disk", "name": "other", "writable": True})
        self.assertNotIn("failed", self.io("here", "write -P 1 0 64k", "read -P 1 0 64k").stdout)
        self.refused("export 'other' uses it", self.set, self.here, False)

    def test_a_job_is_in_the_way(self):
        self.add(self.here, "qcow2")
        self.raw("target.raw", DISK)
        self.here.execute("blockdev-add", driver="raw", **{"node-name": "t"}, file={"driver": "file", "filename": "target.raw"})
        self.here.execute("blockdev-backup", **{"job-id": "j", "device": "disk", "target": "t", "sync": "full", "speed": 64 * KiB})
        self.refused("active parent node", self.set, self.here, False, **{"node-name": "disk"})
        self.assertTrue(self.node(self.here)["active"])
        self.here.execute("job-cancel", id="j")

    def test_a_kill_while_it_is_inactive_loses_nothing(self):
        self.add(self.here, "raw")
        self.export(self.here)
        self.here.execute("block-dirty-bitmap-add", node="disk", name="kept", persistent=True, granularity=64 * KiB)
        self.io("here", "write -P 1 0 64k")
        self.set(self.here, False)
        there = self.daemon_of("there")
        self.add(there, "raw")
        self.assertEqual(self.node(there)["dirty-bitmaps"][0]["count"], 64 * KiB)
        self.assertNotIn("inconsistent", self.node(there)["dirty-bitmaps"][0])


if __name__ == "__main__":
    unittest.main()
