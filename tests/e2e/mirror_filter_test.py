"""Mirrors of disks that guests see through filters: what is read for them is not the filters' affair, and filters stay above the
disk that comes after."""
import json
import time
import unittest

from bed import KiB, MiB, first_difference
from lab.qmp import QmpError
from lab.writer import BLOCK, Writer
from mirror_bed import DISK, MirrorBed

HALF = DISK // BLOCK // 2


class Filtered(MirrorBed):
    def begin(self, *filters, image=("driver=raw,node-name=disk,file.driver=file,file.filename=disk.img",), **limits):
        """disk, and above it `filters` in this order: name and driver."""
        self.start("--object", json.dumps({"qom-type": "throttle-group", "id": "g", "limits": limits}), disk=image)
        below = "disk"
        for name, driver in filters:
            options = {"throttle-group": "g"} if driver == "throttle" else {}
            self.client.execute("blockdev-add", driver=driver, node_name=name, file=below, **options)
            below = name
        with open(self.path / "target.img", "wb") as file:
            file.truncate(DISK)
        self.add_file("target", "target.img")
        self.top = below

    def export_as(self, name, node):
        self.client.execute("block-export-add", type="nbd", id=name, node_name=node, name=name, writable=True)

    def writer_on(self, name, blocks, seed):
        writer = Writer(f"nbd+unix:///{name}?socket={self.path / 'nbd.sock'}", blocks, seed=seed)
        writer.start()
        return writer

    def shown(self, name="disk"):
        """The drivers from an export down."""
        nodes = {node["node-name"]: node for node in self.client.execute("query-named-block-nodes", flat=True)}
        at = next(one["node-name"] for one in self.client.execute("query-block-exports") if one["id"] == name)
        drivers = []
        while at:
            drivers.append((at, nodes[at]["drv"]))
            at = next((child["node-name"] for child in nodes[at]["children"] if child["child"] in ("file", "image")), None)
        return drivers

    def complete(self):
        self.client.execute("job-complete", id="j")
        self.client.wait_event("BLOCK_JOB_COMPLETED", device="j")

    def merged(self, content, *writers):
        for writer in writers:
            content = self.expected(writer, content)
        return content


class Throttled(Filtered):
    """At a megabyte a second the disk would take half a minute."""

    def begin(self, *filters, **more):
        self.raw("disk.img", DISK)
        self.before = (self.path / "disk.img").read_bytes()
        super().begin(*(filters or (("slow", "throttle"),)), **{"bps-total": MiB, **more})
        self.export_as("disk", self.top)

    def test_the_disk_below_is_mirrored_at_its_own_speed_and_the_filter_stays(self):
        self.begin()
        begun = time.monotonic()
        self.mirror()
        self.until_ready()
        self.assertLess(time.monotonic() - begun, 10)
        self.complete()
        self.assertEqual([one[0] for one in self.shown()[:2]], ["slow", "target"])
        self.client.execute("blockdev-del", node_name="disk")
        self.client.execute("qom-set", path="g", property="limits", value={"bps-total": 0})
        self.assertIsNone(first_difference(self.content("disk"), self.before))

    def test_the_filter_itself_is_mirrored_at_the_disks_speed(self):
        for replaces, left in (("disk", ["slow", "target"]), (None, ["target"])):
            with self.subTest(replaces=replaces):
                self.setUp()
                self.begin()
                begun = time.monotonic()
                self.client.execute("blockdev-mirror", job_id="j", device="slow", target="target", sync="full",
                                    **({"replaces": replaces} if replaces else {}))
                self.until_ready()
                self.assertLess(time.monotonic() - begun, 10)
                self.complete()
                self.assertEqual([one[0] for one in self.shown()][:len(left)], left)

    def test_its_guest_keeps_its_budget(self):
        """Bytes that a guest gets written in a while: as many with a mirror beside it as without."""
        self.begin()
        disk = self.disk()
        disk.pwrite(bytes(MiB), 0)                          # the bucket is full
        rates = []
        for with_mirror in (False, True):
            if with_mirror:
                self.mirror()
            begun = time.monotonic()
            for i in range(24):
                disk.pwrite(bytes([i]) * 128 * KiB, i * 128 * KiB)
            rates.append(3 * MiB / (time.monotonic() - begun))
        self.assertGreater(rates[1], rates[0] * 0.7)
        disk.shutdown()

    def writes_through_and_beside(self, copy_mode):
        self.begin(("slow", "throttle"), ("outer", "throttle"), **{"bps-total": 64 * MiB})
        self.export_as("beside", "disk")
        writers = self.writer_on("disk", range(HALF), 1), self.writer_on("beside", range(HALF, 2 * HALF), 2)
        self.mirror(copy_mode=copy_mode)
        self.until_ready()
        time.sleep(0.2)
        self.complete()
        for writer in writers:
            count = len(writer.log)
            self.until(lambda writer=writer, count=count: len(writer.log) > count + 20, "writes after the pivot")
            writer.finish()
        self.assertEqual([one[0] for one in self.shown()[:3]], ["outer", "slow", "target"])
        self.assertEqual(self.shown("beside")[0][0], "target")
        self.client.execute("blockdev-del", node_name="disk")
        expected = self.merged(self.before, *writers)
        self.assertIsNone(first_difference(self.content("disk"), expected))
        self.client.execute("quit")
        self.daemon.wait(20)
        self.lab.ended(self.daemon)
        self.assertIsNone(first_difference((self.path / "target.img").read_bytes(), expected))

    def test_writes_through_filters_and_beside_them(self):
        self.writes_through_and_beside("background")

    def test_writes_through_filters_and_beside_them_write_blocking(self):
        self.writes_through_and_beside("write-blocking")

    def test_a_filter_that_is_changed_meanwhile(self):
        """Its size cannot be changed, its limits can, and it can go."""
        self.begin()
        self.client.execute("blockdev-add", driver="throttle", node_name="idle", file="disk", **{"throttle-group": "g"})
        self.mirror(speed=4 * MiB)
        with self.assertRaises(QmpError):
            self.client.execute("block_resize", node_name="slow", size=2 * DISK)
        self.client.execute("blockdev-del", node_name="idle")
        self.client.execute("block-job-set-speed", device="j", speed=0)
        self.until_ready()
        self.complete()
        self.client.execute("qom-set", path="g", property="limits", value={"bps-total": 0})
        self.assertIsNone(first_difference(self.content("disk"), self.before))

    def test_filters_of_jobs_make_it_no_disk(self):
        """A backup counts on the node that it began with."""
        for device in ("disk", "slow"):
            with self.subTest(device=device):
                self.setUp()
                self.begin()
                self.add_file("other", self.raw("other.img", DISK))
                self.client.execute("blockdev-backup", job_id="b", device=device, target="other", sync="full", speed=1)
                for command, options in (("blockdev-mirror", {"target": "target", "sync": "full"}), ("block-commit", {})):
                    with self.assertRaisesRegex(QmpError, "Need a root block node"):
                        self.client.execute(command, job_id="j", device="disk", **options)
                with self.assertRaisesRegex(QmpError, "Need a root block node"):
                    self.client.execute("blockdev-snapshot-internal-sync", device="disk", name="s")

    def test_what_stands_on_a_filter_makes_it_no_disk(self):
        self.begin()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "over.qcow2", DISK)
        self.client.execute("block-export-del", id="disk")
        self.client.execute("blockdev-add", driver="qcow2", node_name="over", backing="slow",
                            file={"driver": "file", "filename": str(self.path / "over.qcow2")})
        for device in ("disk", "slow"):
            with self.assertRaisesRegex(QmpError, "Need a root block node"):
                self.client.execute("blockdev-mirror", job_id="j", device=device, target="target", sync="full")


class CopiedOnRead(Filtered):
    """base <- disk, which holds what is read through the filter."""

    def begin(self, *filters):
        self.raw("base.img", DISK)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", "disk.img")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 5 1M 3M", "disk.img")
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "disk.img", "before.img")
        self.before = (self.path / "before.img").read_bytes()
        super().begin(*filters, image=("driver=qcow2,node-name=disk,file.driver=file,file.filename=disk.img",))
        self.export_as("disk", self.top)

    def held(self):
        told = json.loads(self.lab.run("qemu-img", "map", "-U", "-f", "qcow2", "--output=json", "disk.img").stdout)
        return sum(part["length"] for part in told if part["depth"] == 0)

    def test_the_overlay_is_not_filled(self):
        for device in ("disk", "cor"):
            with self.subTest(device=device):
                self.setUp()
                self.begin(("cor", "copy-on-read"))
                held = self.held()
                self.client.execute("blockdev-mirror", job_id="j", device=device, target="target", sync="full", replaces="disk")
                self.until_ready()
                self.assertEqual(self.held(), held)
                self.complete()
                self.assertEqual([one[0] for one in self.shown()[:2]], ["cor", "target"])
                self.assertIsNone(first_difference(self.content("disk"), self.before))

    def test_what_is_read_and_written_meanwhile(self):
        for copy_mode in ("background", "write-blocking"):
            with self.subTest(copy_mode=copy_mode):
                self.setUp()
                self.begin(("cor", "copy-on-read"), ("slow", "throttle"))
                writer = self.writer_on("disk", range(HALF), 1)
                self.mirror(copy_mode=copy_mode, sync="full")
                reader = self.disk()
                for at in range(0, DISK, MiB):
                    reader.pread(64 * KiB, at)
                reader.shutdown()
                self.until_ready()
                self.complete()
                writer.finish()
                self.assertEqual([one[0] for one in self.shown()[:3]], ["slow", "cor", "target"])
                self.assertIsNone(first_difference(self.content("disk"), self.merged(self.before, writer)))

    def test_the_top_layer_alone(self):
        self.begin(("cor", "copy-on-read"))
        writer = self.writer_on("disk", range(HALF), 1)
        self.client.execute("drive-mirror", job_id="j", device="disk", target="new.qcow2", sync="top", node_name="new")
        self.until_ready()
        self.complete()
        writer.finish()
        self.assertEqual([one[0] for one in self.shown()[:2]], ["cor", "new"])
        self.assertIsNone(first_difference(self.content("disk"), self.merged(self.before, writer)))


if __name__ == "__main__":
    unittest.main()
