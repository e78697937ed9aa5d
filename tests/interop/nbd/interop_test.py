"""The NBD server with the clients that people use: libnbd and its tools, QEMU's tools, fio."""
import json
import os
import subprocess
import unittest

import nbd

from peer import LIMIT, MIB, ServerTest, run


def extents(text):
    """nbdinfo --map --json as (offset, length, type)."""
    return [(e["offset"], e["length"], e["type"]) for e in json.loads(text)]


class Nbdinfo(ServerTest):
    def test_describes_the_export(self):
        info = json.loads(run("nbdinfo", "--json", self.serve(self.make_disk())))
        self.assertEqual(info["protocol"], "newstyle-fixed")
        self.assertTrue(info["structured"])
        export = info["exports"][0]
        self.assertEqual(export["export-size"], 16 * MIB)
        self.assertEqual(export["description"], "a disk of nbd_serve")
        for can in ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"):
            self.assertTrue(export[f"can_{can}"], can)
        self.assertFalse(export["is_read_only"])
        self.assertEqual(export["block_size_maximum"], 32 * MIB)

    def test_a_read_only_export(self):
        export = json.loads(run("nbdinfo", "--json", self.serve(self.make_disk(), "--read-only")))["exports"][0]
        self.assertTrue(export["is_read_only"])
        for can in ("fast_zero", "trim", "zero"):
            self.assertFalse(export[f"can_{can}"], can)

    def test_maps_allocation(self):
        uri = self.serve(self.make_disk())
        self.assertEqual(extents(run("nbdinfo", "--map", "--json", uri)),
                         [(0, MIB, 0), (MIB, 2 * MIB, 3), (3 * MIB, 65536, 0),
                          (3 * MIB + 65536, 12 * MIB - 65536, 3), (15 * MIB, MIB, 0)])

    def test_maps_dirty_bitmaps_and_depth(self):
        uri = self.serve(self.make_disk(), "--depth", f"--dirty=a:{MIB}:{65536}", f"--dirty=b:0:{2 * MIB}")
        listed = json.loads(run("nbdinfo", "--json", "--list", uri))["exports"][0]["contexts"]
        self.assertEqual(listed, ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:a",
                                  "qemu:dirty-bitmap:b"])
        self.assertEqual(extents(run("nbdinfo", "--map=qemu:dirty-bitmap:a", "--json", uri)),
                         [(0, MIB, 0), (MIB, 65536, 1), (MIB + 65536, 15 * MIB - 65536, 0)])
        self.assertEqual(extents(run("nbdinfo", "--map=qemu:dirty-bitmap:b", "--json", uri)),
                         [(0, 2 * MIB, 1), (2 * MIB, 14 * MIB, 0)])
        self.assertEqual(extents(run("nbdinfo", "--map=qemu:allocation-depth", "--json", uri)),
                         [(0, 16 * MIB, 1)])

    def test_lists_over_tcp(self):
        uri = self.serve(self.make_disk(), socket="tcp:127.0.0.1:0")
        self.assertRegex(uri, r"^nbd://127.0.0.1:[1-9]")
        self.assertEqual(run("nbdinfo", "--size", uri).strip(), str(16 * MIB))
        self.assertIn("export=\"\"", run("nbdinfo", "--list", uri))


class Nbdcopy(ServerTest):
    def test_both_ways(self):
        disk = self.make_disk()
        out, copy = self.path / "out", self.make_disk(data=((MIB, 2 * MIB),), name="copy")
        run("nbdcopy", self.serve(disk), str(out))
        self.assertEqual(out.read_bytes(), disk.read_bytes())
        run("nbdcopy", "--flush", str(disk), self.serve(copy))
        self.assertEqual(copy.read_bytes(), disk.read_bytes())

    def test_between_two_servers_with_many_connections(self):
        disk, copy = self.make_disk(), self.make_disk(data=(), name="copy")
        run("nbdcopy", "--connections=4", "--requests=32", "--request-size=65536",
            self.serve(disk, "--read-only"), self.serve(copy))
        self.assertEqual(copy.read_bytes(), disk.read_bytes())

    def test_allocated(self):
        disk, copy = self.make_disk(), self.make_disk(data=((0, 16 * MIB),), name="copy")
        run("nbdcopy", "--allocated", str(disk), self.serve(copy))
        self.assertEqual(copy.read_bytes(), disk.read_bytes())


class Qemu(ServerTest):
    def test_img_convert_and_compare(self):
        disk, copy = self.make_disk(), self.make_disk(data=((0, 16 * MIB),), name="copy")
        source, target = self.serve(disk, "--read-only"), self.serve(copy)
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, target)
        self.assertIn("identical", run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, target))
        self.assertEqual(copy.read_bytes(), disk.read_bytes())
        image = self.path / "image.qcow2"
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, str(image))
        self.assertIn("identical", run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, str(image)))

    def test_img_map(self):
        found = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", self.serve(self.make_disk())))
        self.assertEqual([(e["start"], e["length"], e["data"], e["zero"]) for e in found],
                         [(0, MIB, True, False), (MIB, 2 * MIB, False, True), (3 * MIB, 65536, True, False),
                          (3 * MIB + 65536, 12 * MIB - 65536, False, True), (15 * MIB, MIB, True, False)])

    def test_map_of_a_dirty_bitmap(self):
        self.serve(self.make_disk(), f"--dirty=b:{MIB}:{65536}")
        node = ("driver=nbd,server.type=unix,x-dirty-bitmap=qemu:dirty-bitmap:b,"
                f"server.path={self.path}/disk.sock")
        found = json.loads(run("qemu-img", "map", "--output=json", "--image-opts", node))
        # QEMU shows what is dirty as holes.
        self.assertEqual([(e["start"], e["length"]) for e in found if not e["data"]], [(MIB, 65536)])

    def test_io(self):
        disk = self.make_disk(data=((0, 16 * MIB),))
        printed = run("qemu-io", "-f", "raw", "-c", "write -P 17 4k 1M", "-c", "read -P 17 4k 1M",
                      "-c", "write -f -P 18 513 700", "-c", "read -P 18 513 700",
                      "-c", "write -z 2M 1M", "-c", "read -P 0 2M 1M",
                      "-c", "write -z -u 4M 1M", "-c", "read -P 0 4M 1M",
                      "-c", "write -z -n 6M 64k", "-c", "read -P 0 6M 64k",
                      "-c", "discard 8M 1M", "-c", "flush", self.serve(disk))
        for bad in ("failed", "verification", "error"):
            self.assertNotIn(bad, printed)
        with open(disk, "rb") as file:
            file.seek(4096)
            self.assertEqual(file.read(1 << 20), bytes([17]) * (1 << 20))

    def test_a_read_only_export_is_not_opened_for_writing(self):
        uri = self.serve(self.make_disk(), "--read-only")
        run("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", uri)
        refused = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", uri], timeout=LIMIT,
                                 capture_output=True, text=True)
        self.assertIn("Permission denied", refused.stderr)

    def test_nbd_lists(self):
        self.serve(self.make_disk(), "--depth", "--dirty=b:0:65536")
        printed = run("qemu-nbd", "--list", "-k", str(self.path / "disk.sock"))
        for line in ("exports available: 1", "export: ''", "description: a disk of nbd_serve", "size:  16777216",
                     "min block: 1", "opt block: 4096", "max block: 33554432", "available meta contexts: 3",
                     "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b"):
            self.assertIn(line, printed)

    def test_a_storage_daemon_in_between(self):
        """QEMU's own client with many requests in flight: its daemon exports our export once more."""
        disk = self.make_disk()
        self.serve(disk)
        socket = self.path / "qsd.sock"
        daemon = subprocess.Popen([
            "qemu-storage-daemon", "--blockdev",
            f"driver=nbd,node-name=n,server.type=unix,server.path={self.path}/disk.sock",
            "--nbd-server", f"addr.type=unix,addr.path={socket}",
            "--export", "type=nbd,id=e,node-name=n,name=,writable=on",
            "--pidfile", str(self.path / "qsd.pid"), "--daemonize"])
        self.assertEqual(daemon.wait(LIMIT), 0)
        self.addCleanup(lambda: os.kill(int((self.path / "qsd.pid").read_text()), 15))
        out = self.path / "out"
        run("nbdcopy", f"nbd+unix:///?socket={socket}", str(out))
        self.assertEqual(out.read_bytes(), disk.read_bytes())


class Fio(ServerTest):
    def check(self, *options, serve=()):
        uri = self.serve(self.make_disk(data=((0, 16 * MIB),)), *serve)
        run("fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", "--size=16m", "--output-format=json",
            "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
            f"--aux-path={self.path}", *options)

    def test_random_writes_verified(self):
        self.check("--rw=randwrite", "--bs=4k", "--iodepth=32")

    def test_unaligned_mix_verified(self):
        self.check("--rw=randwrite", "--bsrange=512-64k", "--bs_unaligned=1", "--iodepth=16")

    def test_large_writes_verified(self):
        self.check("--rw=write", "--bs=2m", "--iodepth=16")

    def test_direct(self):
        self.check("--rw=randwrite", "--bs=4k", "--iodepth=32", serve=("--direct",))

    def test_without_io_uring(self):
        self.check("--rw=randwrite", "--bs=4k", "--iodepth=32", serve=("--threads",))


class Libnbd(ServerTest):
    def connect(self, uri, contexts=(), strict=True):
        client = nbd.NBD()
        for context in contexts:
            client.add_meta_context(context)
        if not strict:
            client.set_strict_mode(0)
        client.connect_uri(uri)
        return client

    def test_every_command(self):
        client = self.connect(self.serve(self.make_disk()), ["base:allocation"])
        client.pwrite(b"x" * 5000, 1234)
        self.assertEqual(client.pread(5000, 1234), bytearray(b"x" * 5000))
        client.pwrite(b"y" * 512, 0, nbd.CMD_FLAG_FUA)
        client.zero(4096, 0)
        client.zero(4096, 4096, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
        client.zero(65536, 65536, nbd.CMD_FLAG_FAST_ZERO)
        self.assertEqual(client.pread(8192, 0), bytearray(8192))
        client.trim(MIB, 0)
        client.cache(MIB, 0)
        client.flush()
        found = []
        client.block_status(4 * MIB, 0, lambda context, offset, entries, error: found.append((context, entries)) and 0,
                            nbd.CMD_FLAG_REQ_ONE)
        self.assertEqual(len(found[0][1]), 2)
        client.shutdown()

    def test_holes_of_structured_reads(self):
        client = self.connect(self.serve(self.make_disk()))
        chunks = []
        data = client.pread_structured(4 * MIB, 0, lambda data, offset, status, error:
                                       chunks.append((offset, len(data), status)) and 0)
        self.assertEqual(chunks, [(0, MIB, nbd.READ_DATA), (MIB, 2 * MIB, nbd.READ_HOLE),
                                  (3 * MIB, 65536, nbd.READ_DATA), (3 * MIB + 65536, MIB - 65536, nbd.READ_HOLE)])
        self.assertEqual(len(data), 4 * MIB)

    def test_errors(self):
        client = self.connect(self.serve(self.make_disk(), "--read-only"), strict=False)
        for call, errno in ((lambda: client.pread(512, 16 * MIB), "EINVAL"),
                            (lambda: client.pwrite(b"x" * 512, 0), "EPERM"),
                            (lambda: client.trim(512, 0), "EPERM"),
                            (lambda: client.zero(512, 0), "EPERM"),
                            (lambda: client.cache(512, 16 * MIB), "EINVAL")):
            with self.assertRaises(nbd.Error) as caught:
                call()
            self.assertEqual(caught.exception.errno, errno)
        self.assertEqual(len(client.pread(512, 0)), 512)

    def test_writes_of_one_connection_are_seen_and_flushed_by_another(self):
        uri = self.serve(self.make_disk())
        one, other = self.connect(uri), self.connect(uri)
        self.assertTrue(one.can_multi_conn())
        one.pwrite(b"m" * 4096, 8192)
        other.flush()
        self.assertEqual(other.pread(4096, 8192), bytearray(b"m" * 4096))

    def test_oldest_form_of_negotiation(self):
        client = nbd.NBD()
        client.set_handshake_flags(0)
        client.set_request_structured_replies(False)
        client.connect_uri(self.serve(self.make_disk()))
        self.assertFalse(client.get_structured_replies_negotiated())
        client.pwrite(b"o" * 512, 0)
        self.assertEqual(client.pread(512, 0), bytearray(b"o" * 512))
        client.shutdown()


class Limits(ServerTest):
    def test_max_connections(self):
        uri = self.serve(self.make_disk(), "--max-connections=1")
        client = nbd.NBD()
        client.connect_uri(uri)
        self.assertFalse(client.can_multi_conn())

    def test_the_socket_is_private(self):
        self.serve(self.make_disk())
        self.assertEqual((self.path / "disk.sock").stat().st_mode & 0o777, 0o600)

    def test_a_clean_end_removes_the_socket(self):
        self.serve(self.make_disk())
        client = nbd.NBD()
        client.connect_unix(str(self.path / "disk.sock"))
        self.server.terminate()
        self.assertEqual(self.server.wait(LIMIT), 0)
        self.assertFalse((self.path / "disk.sock").exists())


if __name__ == "__main__":
    unittest.main()
