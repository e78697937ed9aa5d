"""tidemark snapshot of disks that are block devices: where their overlay lies is for people to say, for /dev is gone with the host."""
import unittest

from bed import FAILED
from snapshot_bed import SIZE, SnapshotBed


class Devices(SnapshotBed):
    def setUp(self):
        super().setUp()
        (self.path / "disk.img").write_bytes(bytes(SIZE))
        self.device = self.path / "device"                       # where an overlay beside it would do no harm
        self.device.symlink_to(self.loop_device("disk.img"))

    def assert_created_where_it_is_said(self, disk):
        said = self.snapshot("create", disk, "--name", "x", expect=FAILED)
        self.assertIn(f"beside which no file can be made; name one with {disk}=FILE", said)
        self.assertEqual(self.names(), [])
        self.snapshot("create", f"{disk}={self.path}/x.qcow2")
        self.assertEqual(self.names(), ["x.qcow2"])

    def test_a_daemon_s(self):
        self.serve(f"{self.device}=vda", options=("--format", "raw"))
        self.assert_created_where_it_is_said("vda")
        self.snapshot("create", "vda", "--name", "y")            # beside the one before
        self.assertEqual(self.names(), ["vda.y.qcow2", "x.qcow2"])

    def test_one_that_nobody_uses(self):
        self.offline()
        self.assert_created_where_it_is_said(str(self.device))
        self.snapshot("create", "x.qcow2", "--name", "y")
        self.assertEqual(self.names(), ["device.y.qcow2", "x.qcow2"])


if __name__ == "__main__":
    unittest.main()
