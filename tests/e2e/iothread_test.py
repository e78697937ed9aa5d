"""Disks on threads of their own: what is served, backed up and changed there is as right as on one thread."""
import shutil
import signal
import threading
import time
import unittest

from bed import DONE, MiB, Bed, first_difference
from lab import processes
from lab.moment import Replay
from lab.qmp import Qmp, QmpError
from lab.writer import BLOCK, Writer

DISK = 16 * MiB
WRITTEN = range(DISK // BLOCK // 2)         # the blocks that writers write to


class Threads(Bed):
    aio = ()

    def start(self, *options, wait_for="nbd.sock"):
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock", *self.aio, *options)
        for name in ("qmp.sock", wait_for):
            processes.wait_for_socket(self.path / name, self.daemon)

    def two_disks(self, *options):
        """`a`, raw, on iothread t0 and `b`, qcow2, on t1."""
        self.raw("a.img", DISK, seed=1)
        self.qcow2("b.qcow2", DISK, seed=2)
        self.start("--object", "iothread,id=t0", "--object", "iothread,id=t1,poll-max-ns=0",
                   "--blockdev", "file,node-name=a,filename=a.img",
                   "--blockdev", "qcow2,node-name=b,file.driver=file,file.filename=b.qcow2",
                   "--export", "nbd,id=a,node-name=a,name=a,writable=on,iothread=t0,fixed-iothread=on",
                   "--export", "nbd,id=b,node-name=b,name=b,writable=on,iothread=t1,fixed-iothread=on", *options)
        client = self.qmp()
        self.until(lambda: len(client.execute("query-block-exports")) == 2, "two exports")
        self.assertTrue(self.threads() >= {"iothread t0", "iothread t1"})

    def threads(self):
        names = set()
        for task in self.path.joinpath(f"/proc/{self.daemon.pid}/task").iterdir():
            try:
                names.add((task / "comm").read_text().strip())
            except OSError:
                pass                             # it has ended meanwhile
        return names

    def write_to(self, disk, **how):
        writer = Writer(f"nbd+unix:///{disk}?socket={self.path / 'nbd.sock'}", WRITTEN, **how)
        writer.start()
        return writer

    def refused(self, client, command, **arguments):
        with self.assertRaises(QmpError) as caught:
            client.execute(command, **arguments)
        return caught.exception.desc

    def export(self, client, node, **options):
        client.execute("block-export-add", type="nbd", id=node, node_name=node, name=node, **options)

    def unexport(self, client, node):
        client.execute("block-export-del", id=node)
        self.until(lambda: node not in [e["id"] for e in client.execute("query-block-exports")], "the end of the export")

    def add_file(self, client, name, size=DISK):
        with open(self.path / f"{name}.img", "wb") as file:
            file.truncate(size)
        client.execute("blockdev-add", driver="file", node_name=name, filename=str(self.path / f"{name}.img"))


class Backups(Threads):
    def test_all_disks_are_of_one_moment_under_load(self):
        self.two_disks()
        for disk in "ab":
            (self.path / f"{disk}.first").write_bytes(self.content(disk))
        writers = {disk: self.write_to(disk, seed=ord(disk), rate=600) for disk in "ab"}
        asking = threading.Event()
        asked = self.ask_all_the_time(asking)
        points = []
        try:
            for n in range(4):
                begin = time.monotonic()
                point = self.backup(level="incremental" if n else "full")
                points.append((point["point"], begin, time.monotonic()))
        finally:
            asking.set()
            for thread in asked:
                thread.join(20)
            for writer in writers.values():
                writer.finish()
        self.assertEqual(self.asking_failed, [])
        self.check_points(points, writers)
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        self.lab.run("qemu-img", "check", "b.qcow2")

    def check_points(self, points, writers):
        replays = {disk: Replay(self.path / f"{disk}.first", writers[disk].log) for disk in writers}
        for point, begin, end in points:
            moments = []
            for disk, replay in replays.items():
                file = self.path / "restored.img"
                file.write_bytes(self.restored(point, disk))
                moments.append(replay.check(file, begin, end))
            # Both have a span of possible moments; one moment has to do for both.
            self.assertLessEqual(max(m.earliest for m in moments), min(m.latest for m in moments))
        for replay in replays.values():
            replay.close()

    def ask_all_the_time(self, enough):
        """Other clients of QMP, which look at everything and change bitmaps while backups run."""
        self.asking_failed = []

        def ask(number):
            try:
                with Qmp(self.path / "qmp.sock") as qmp:
                    while not enough.is_set():
                        for command in ("query-named-block-nodes", "query-block-exports", "query-jobs", "query-block-jobs"):
                            qmp.execute(command)
                        for node in "ab":
                            name = f"mine{number}"
                            qmp.execute("block-dirty-bitmap-add", node=node, name=name)
                            qmp.execute("x-debug-block-dirty-bitmap-sha256", node=node, name=name)
                            qmp.execute("block-dirty-bitmap-remove", node=node, name=name)
            except Exception as error:
                self.asking_failed.append(error)

        threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(3)]
        for thread in threads:
            thread.start()
        return threads

    def test_a_group_on_two_threads_fails_as_one_and_loses_nothing(self):
        self.two_disks()
        client = self.qmp()
        actions = [{"type": "block-dirty-bitmap-add", "data": {"node": disk, "name": "since"}} for disk in "ab"]
        client.execute("transaction", actions=actions)
        for disk in "ab":
            self.change(disk)
        sums = [client.execute("x-debug-block-dirty-bitmap-sha256", node=disk, name="since") for disk in "ab"]
        for disk in "ab":
            self.add_file(client, f"t{disk}")
        client.execute("blockdev-add", driver="fault", node_name="broken", file="tb", rules=[{"operation": "write", "skip": 2}])
        jobs = [{"type": "blockdev-backup", "data": {"device": disk, "target": target, "job-id": f"j{disk}", "speed": speed,
                                                     "sync": "incremental", "bitmap": "since", "auto-dismiss": False}}
                for disk, target, speed in (("a", "ta", 65536), ("b", "broken", 0))]
        client.execute("transaction", actions=jobs, properties={"completion-mode": "grouped"})
        ended = {disk: client.wait_job(f"j{disk}") for disk in "ab"}
        self.assertEqual(ended["a"]["error"], "Operation canceled")
        self.assertEqual(ended["b"]["error"], "Input/output error")
        again = [client.execute("x-debug-block-dirty-bitmap-sha256", node=disk, name="since") for disk in "ab"]
        self.assertEqual(again, sums)

    def test_a_group_on_two_threads_is_stored_as_one(self):
        self.two_disks()
        client = self.qmp()
        for disk in "ab":
            client.execute("block-dirty-bitmap-add", node=disk, name="since", persistent=True)
            self.change(disk)
            self.add_file(client, f"t{disk}")
        actions = [action for disk in "ab" for action in (
            {"type": "block-dirty-bitmap-clear", "data": {"node": disk, "name": "since"}},
            {"type": "blockdev-backup", "data": {"device": disk, "target": f"t{disk}", "job-id": f"j{disk}", "sync": "full"}})]
        client.execute("transaction", actions=actions, properties={"completion-mode": "grouped"})
        for disk in "ab":
            client.wait_event("BLOCK_JOB_COMPLETED", device=f"j{disk}")
        client.close()
        self.daemon.kill()
        self.daemon.wait(20)
        self.lab.ended(self.daemon)
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)
        self.start("--blockdev", "file,node-name=a,filename=a.img", "--blockdev", "qcow2,node-name=b,file.driver=file,file.filename=b.qcow2")
        nodes = self.qmp().execute("query-named-block-nodes", flat=True)
        found = {node["node-name"]: node["dirty-bitmaps"][0]["count"] for node in nodes if node.get("dirty-bitmaps")}
        self.assertEqual(found, {"a": 0, "b": 0})

    def test_mirrors_on_two_threads_begin_in_one_transaction(self):
        self.two_disks()
        client = self.qmp()
        for disk in "ab":
            self.add_file(client, f"t{disk}")
        mirrors = [{"type": "blockdev-mirror", "data": {"device": disk, "target": f"t{disk}", "job-id": f"j{disk}", "sync": "full"}}
                   for disk in "ab"]
        self.assertIn("aborted", self.refused(client, "transaction", actions=[*mirrors, {"type": "abort", "data": {}}]))
        self.assertEqual(client.execute("query-jobs"), [])
        client.execute("transaction", actions=mirrors)
        for disk in "ab":
            client.wait_event("BLOCK_JOB_READY", device=f"j{disk}")
            self.change(disk)
        for disk in "ab":
            client.execute("block-job-cancel", device=f"j{disk}")
            client.wait_event("BLOCK_JOB_COMPLETED", device=f"j{disk}")
            self.assertEqual((self.path / f"t{disk}.img").read_bytes(), self.content(disk))

    def test_a_transaction_that_fails_undoes_what_it_did_on_every_thread(self):
        self.two_disks()
        client = self.qmp()
        add = [{"type": "block-dirty-bitmap-add", "data": {"node": disk, "name": "new"}} for disk in "ab"]
        self.assertIn("aborted", self.refused(client, "transaction", actions=[*add, {"type": "abort", "data": {}}]))
        nodes = client.execute("query-named-block-nodes", flat=True)
        self.assertEqual([node["node-name"] for node in nodes if "dirty-bitmaps" in node], [])

    def test_bitmaps_merge_from_another_thread(self):
        self.two_disks()
        client = self.qmp()
        for disk in "ab":
            client.execute("block-dirty-bitmap-add", node=disk, name="m", granularity=65536)
        self.change("a")
        client.execute("block-dirty-bitmap-merge", node="b", target="m", bitmaps=[{"node": "a", "name": "m"}])
        a, b = (client.execute("x-debug-block-dirty-bitmap-sha256", node=disk, name="m") for disk in "ab")
        self.assertEqual(a, b)

    def test_jobs_elsewhere_obey(self):
        """Paused, resumed, slowed down, cancelled from the main thread."""
        self.two_disks()
        client = self.qmp()
        self.add_file(client, "t")
        client.execute("blockdev-backup", device="b", target="t", job_id="j", sync="full", speed=256 * 1024)
        client.execute("job-pause", id="j")
        self.until(lambda: client.execute("query-jobs")[0]["status"] == "paused", "the pause")
        at = client.execute("query-jobs")[0]["current-progress"]
        self.content("b")
        self.assertEqual(client.execute("query-jobs")[0]["current-progress"], at)
        client.execute("job-resume", id="j")
        self.until(lambda: client.execute("query-jobs")[0]["current-progress"] > at, "progress after the pause")
        client.execute("job-cancel", id="j")
        self.until(lambda: not client.execute("query-jobs"), "the end of the job")
        self.assertIn("BLOCK_JOB_CANCELLED", [event["event"] for event in client.events])
        client.execute("blockdev-del", node_name="t")

    def test_a_snapshot_of_a_served_disk_is_made_on_its_thread(self):
        self.two_disks()
        client = self.qmp()
        before = self.content("a")
        self.unexport(client, "a")
        self.add_file(client, "old")
        client.execute("blockdev-add", driver="copy-before-write", node_name="cbw", file="a", target="old")
        client.execute("block-export-add", type="nbd", id="live", node_name="cbw", name="a", writable=True, iothread="t0",
                       fixed_iothread=True)
        client.execute("blockdev-add", driver="snapshot-access", node_name="snap", file="cbw")
        client.execute("block-export-add", type="nbd", id="snap", node_name="snap", name="snap")
        self.change("a")
        self.assertEqual(first_difference(self.content("snap"), before), None)
        self.assertNotEqual(first_difference(self.content("a"), before), None)


class BackupsWithoutUring(Backups):
    aio = ("--aio", "threads")


class Moves(Threads):
    def test_content_stays_wherever_a_disk_goes(self):
        """A chain with tables in memory goes from thread to thread; between, it is written to."""
        self.qcow2("base.qcow2", DISK)
        self.lab.run("qemu-img", "create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        self.start("--object", "iothread,id=t0", "--object", "iothread,id=t1")
        client = self.qmp()
        client.execute("blockdev-add", driver="qcow2", node_name="disk",
                       file={"driver": "file", "filename": str(self.path / "top.qcow2")})
        client.execute("block-dirty-bitmap-add", node="disk", name="m")
        self.add_file(client, "copy")
        expected = None
        for n, where in enumerate(["t0", "t1", None, "t1", "t0", "t0", None]):
            if not where:
                client.execute("x-blockdev-set-iothread", node_name="disk", iothread=None)
            self.export(client, "disk", writable=True, **({"iothread": where, "fixed_iothread": True} if where else {}))
            if expected is not None:
                self.assertEqual(first_difference(self.content(), expected), None)
            self.change(seed=n, count=50)
            expected = self.content()
            self.unexport(client, "disk")
        client.execute("blockdev-backup", device="disk", target="copy", job_id="j", sync="full", auto_dismiss=False)
        self.assertNotIn("error", client.wait_job("j"))
        self.assertEqual(first_difference((self.path / "copy.img").read_bytes(), expected), None)
        for thread in ("t0", "t1"):
            client.execute("object-del", id=thread)
        self.until(lambda: self.threads().isdisjoint({"iothread t0", "iothread t1"}), "the end of the threads")
        client.execute("blockdev-del", node_name="disk")
        self.lab.run("qemu-img", "check", "top.qcow2")

    def test_files_in_memory_and_direct_ones_move(self):
        """What a backend knows of a file goes along: tmpfs takes no RWF_NOWAIT, direct I/O must be aligned."""
        shm = f"/dev/shm/tidemark-{self.path.name}.img"
        self.addCleanup(lambda: self.path.joinpath(shm).unlink(missing_ok=True))
        shutil.copyfile(self.raw("disk.img", DISK), shm)
        self.start("--object", "iothread,id=t0", "--blockdev", f"file,node-name=m,filename={shm}",
                   "--blockdev", "file,node-name=d,filename=disk.img,cache.direct=on")
        client = self.qmp()
        for node in "md":
            contents = []
            for where in ("t0", None, "t0"):
                client.execute("x-blockdev-set-iothread", node_name=node, iothread=where)
                self.export(client, node, writable=True)
                self.change(node, seed=len(contents))
                contents.append(self.content(node))
                self.unexport(client, node)
            self.export(client, node)
            self.assertEqual(first_difference(self.content(node), contents[-1]), None)

    def test_an_export_that_names_no_thread_is_where_the_node_is(self):
        self.start("--object", "iothread,id=t0", "--blockdev", "null-co,node-name=n,size=1048576")
        client = self.qmp()
        client.execute("x-blockdev-set-iothread", node_name="n", iothread="t0")
        self.export(client, "n")
        self.assertEqual(self.refused(client, "object-del", id="t0"), "object 't0' is in use, can not be deleted")
        self.unexport(client, "n")
        client.execute("object-del", id="t0")

    def test_what_is_in_use_stays(self):
        self.two_disks()
        client = self.qmp()
        self.assertEqual(self.refused(client, "block-export-add", type="nbd", id="x", node_name="a", name="x", iothread="t1",
                                      fixed_iothread=True), "Cannot change iothread of active block backend")
        client.execute("block-export-add", type="nbd", id="x", node_name="a", name="x", iothread="t1")
        self.assertEqual(first_difference(self.content("x"), self.content("a")), None)
        for thread in ("t0", "t1"):
            self.assertEqual(self.refused(client, "object-del", id=thread), f"object '{thread}' is in use, can not be deleted")
        self.assertIn("it is in use by export 'a'", self.refused(client, "blockdev-backup", device="b", target="a", job_id="j",
                                                                sync="full"))
        self.assertEqual(client.execute("query-jobs"), [])
        self.assertIn("in use by export", self.refused(client, "blockdev-add", driver="copy-before-write", node_name="f",
                                                       file="a", target="b"))
        self.assertEqual(self.refused(client, "blockdev-add", driver="null-co", node_name="b"),
                         "Duplicate nodes with node-name='b'")


class MovesWithoutUring(Moves):
    aio = ("--aio", "threads")


class Objects(Threads):
    def test_objects_are_made_and_removed(self):
        self.start("--object", '{"qom-type": "iothread", "id": "t0", "thread-pool-max": 4}')
        client = self.qmp()

        def add(**properties):
            return self.refused(client, "object-add", qom_type="iothread", **properties)

        self.assertEqual(add(id="t0"), "attempt to add duplicate property 't0' to object (type 'container')")
        self.assertEqual(add(id="0"), "Parameter 'id' expects an identifier")
        self.assertEqual(add(id="x", poll_max_ns=-1), "poll-max-ns value must be in range [0, 9223372036854775807]")
        self.assertEqual(add(id="x", thread_pool_max=0), "bad thread-pool-min/thread-pool-max values")
        self.assertEqual(self.refused(client, "object-del", id="x"), "object 'x' not found")
        client.execute("object-add", qom_type="iothread", id="x", poll_max_ns=9223372036854775807)
        self.assertTrue(self.threads() >= {"iothread t0", "iothread x"})
        for thread in ("t0", "x"):
            client.execute("object-del", id=thread)
        self.assertTrue(self.threads().isdisjoint({"iothread t0", "iothread x"}))
        client.execute("blockdev-add", driver="null-co", node_name="n")
        self.assertEqual(self.refused(client, "block-export-add", type="nbd", id="e", node_name="n", iothread="t0"),
                         'iothread "t0" not found')
        self.assertIn("must name one", self.refused(client, "block-export-add", type="nbd", id="e", node_name="n", iothread=[]))

    def test_a_bad_object_ends_the_start(self):
        for option, status in (("iothread,id=9", 1), ("iothread", 2), ("secret,id=x", 2),
                               ("iothread,id=x,poll-grow=-1", 1), ("iothread,id=x,y=1", 2)):
            done = self.lab.run(self.tidemarkd, "--object", option, ok=None, timeout=20)
            self.assertEqual((done.returncode, len(done.stderr.splitlines())), (status, 1), done.stderr)


class Ends(Threads):
    def end_under_load(self, end):
        self.two_disks()
        client = self.qmp()
        self.add_file(client, "t")
        writers = [self.write_to(disk, rate=5000, depth=32) for disk in "ab"]
        client.execute("blockdev-backup", device="a", target="t", job_id="j", sync="full", speed=MiB)
        self.until(lambda: all(len(writer.log) > 100 for writer in writers), "load")
        end(client)
        self.daemon.wait(30)
        self.assertEqual(self.lab.ended(self.daemon), DONE)
        for writer in writers:
            writer.join(20)
            self.assertFalse(writer.is_alive())
        self.lab.run("qemu-img", "check", "b.qcow2")

    def test_quit_under_load(self):
        self.end_under_load(lambda client: client.execute("quit"))

    def test_signal_under_load(self):
        self.end_under_load(lambda client: self.daemon.send_signal(signal.SIGTERM))

    def test_clients_come_and_go_with_their_exports(self):
        """Exports vanish under their clients, again and again, and so do clients under their exports."""
        self.two_disks()
        client = self.qmp()
        for n in range(8):
            writer = self.write_to("a", rate=5000, seed=n)
            self.until(lambda: len(writer.log) > 20 or writer.error, "load")
            if n % 2:
                client.execute("block-export-del", id="a", mode="hard")
                self.until(lambda: "a" not in [e["id"] for e in client.execute("query-block-exports")], "the export's end")
                self.export(client, "a", writable=True, iothread="t0" if n % 4 == 1 else "t1", fixed_iothread=True)
            else:
                writer.finish()
            writer.join(20)
            self.assertFalse(writer.is_alive())
        self.assertEqual(len(self.content("a")), DISK)


if __name__ == "__main__":
    unittest.main()
