"""What the tests of mirrors share: a daemon with a disk, a guest that writes to it, and mirrors of it."""
from bed import MiB, Bed
from lab import processes
from lab.writer import BLOCK, Writer

DISK = 32 * MiB


class MirrorBed(Bed):
    def start(self, *options, disk=("driver=raw,node-name=disk,file.driver=file,file.filename=disk.img",)):
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor",
                                     "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock", *options,
                                     *(word for node in disk for word in ("--blockdev", node)))
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()

    def export(self, node="disk", **options):
        self.client.execute("block-export-add", type="nbd", id="e", node_name=node, name="disk", writable=True, **options)

    def writer(self, **how):
        writer = Writer(f"nbd+unix:///disk?socket={self.path / 'nbd.sock'}", range(DISK // BLOCK), **how)
        writer.start()
        return writer

    def expected(self, writer, before):
        content = bytearray(before)
        for write in writer.log:
            for block in range(write.first, write.first + write.count):
                content[block * BLOCK:(block + 1) * BLOCK] = write.block(block)
        return bytes(content)

    def add_file(self, name, path, driver="raw"):
        self.client.execute("blockdev-add", driver=driver, node_name=name, discard="unmap",
                            file={"driver": "file", "filename": str(path)})

    def mirror(self, target="target", job="j", **options):
        self.client.execute("blockdev-mirror", job_id=job, device="disk", target=target, **{"sync": "full", **options})

    def until_ready(self, job="j"):
        self.client.wait_event("BLOCK_JOB_READY", device=job)

    def until_gone(self, job="j", patience=20):
        def gone():
            return all(entry["id"] != job for entry in self.client.execute("query-jobs"))
        self.until(gone, "the end of the job", patience)
