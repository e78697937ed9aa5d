"""Machine: a virtual machine of QEMU's whose disks are exports of tidemarkd, with Linux in it that does as it is told."""
import itertools
import socket
import time

from lab import processes


class Machine:
    """Its disks are /dev/vda, /dev/vdb and so on.  Without KVM, so that it is the same everywhere."""

    def __init__(self, lab, boot, nbd_socket, *exports):
        self.lab, self.buffer, self.tags = lab, b"", itertools.count(1)
        self.console, port = lab.path / "console", lab.path / "port"
        disks = []
        for export in exports:
            # It survives that the server is started anew.
            disks += ["-blockdev", f"driver=nbd,node-name={export},server.type=unix,server.path={nbd_socket},export={export},"
                                   "discard=unmap,reconnect-delay=60",
                      "-device", f"virtio-blk-pci,drive={export},discard=on,write-cache=on"]
        self.process = lab.start(
            "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "192", "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot", "-kernel", boot / "vmlinuz", "-initrd", boot / "initrd", "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on nokaslr no_timer_check", "-serial", f"file:{self.console}",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=port,path={port},server=on,wait=off",
            "-device", "virtserialport,chardev=port,name=port", *disks)
        processes.wait_for_socket(port, self.process)
        self.port = socket.socket(socket.AF_UNIX)
        self.port.connect(str(port))
        self.run("true", patience=120)                       # it is up

    def run(self, command, patience=60, ok=True):
        """What a shell command in it prints; Failure when it fails or does not end."""
        tag = f"{next(self.tags)}"
        self.port.sendall(f"{tag} {command}\n".encode())
        end, mark = time.monotonic() + patience, f"@@{tag} ".encode()
        while not (mark in self.buffer and self.buffer.partition(mark)[2].endswith(b"\n")):
            self.port.settimeout(max(0.01, end - time.monotonic()))
            try:
                data = self.port.recv(65536)
            except TimeoutError:
                raise processes.Failure(f"the guest: no end of '{command}' after {patience} s\n{self.last_words()}") from None
            if not data:
                raise processes.Failure(f"the guest has gone during '{command}'\n{self.last_words()}")
            self.buffer += data
        printed, _, status = self.buffer.partition(mark)
        self.buffer, printed = b"", printed.decode().replace("\r", "")
        if ok and int(status) != 0:
            raise processes.Failure(f"the guest: '{command}' ended with {int(status)}\n{printed}{self.last_words()}")
        return printed

    def last_words(self):
        return self.console.read_text(errors="replace")[-2000:]

    def cut_power(self):
        self.port.close()
        self.process.kill()
        self.process.wait()
        self.lab.ended(self.process)
