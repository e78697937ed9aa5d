"""Hooked: what `--quiesce` runs, where a test looks at it."""


class Hooked:
    """A hook in a Bed that writes down what it was told, and does as a test wants."""

    def hook(self, freeze="true", thaw="true"):
        text = f"#!/bin/sh\necho \"$1\" >> {self.path}/told\necho \"$TIDEMARK_DISKS\" > {self.path}/disks\ncase $1 in\nfreeze) {freeze};;\nthaw) {thaw};;\nesac\n"
        (self.path / "hook").write_text(text)
        (self.path / "hook").chmod(0o755)
        return f"{self.path}/hook"

    def told(self):
        return (self.path / "told").read_text().split()
