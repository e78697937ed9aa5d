"""The differential suite: each script told to tidemarkd and to Debian's qemu-storage-daemon, and what came of it reported.

differential_test.py [NAME ...]   these scripts only
differential_test.py --write      all, and docs/compatibility.md anew
"""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tools"))
import differential
import language
import report
from lab import processes
from schema import Schema

HERE = pathlib.Path(__file__).resolve().parent
DOCUMENT = processes.ROOT / "docs" / "compatibility.md"


def run(path, tidemarkd, reference):
    with processes.Lab("differential") as lab:
        return differential.Comparison(lab, language.load(path), tidemarkd, reference).run()


def our_schema(tidemarkd):
    with processes.Lab("differential") as lab:
        daemon = differential.daemons.Daemon(lab, tidemarkd, lab.path / "tidemarkd")
        entries = daemon.start()
        daemon.end()
        return Schema(entries)


class Differential(unittest.TestCase):
    maxDiff = None
    outcomes = {}

    @classmethod
    def setUpClass(cls):
        cls.tidemarkd = processes.programs()[1]
        cls.reference = differential.qemu_11()

    def run_script(self, path):
        outcome = run(path, self.tidemarkd, self.reference)
        self.outcomes[path.stem] = outcome
        self.assertFalse(outcome.differences, "\n".join(outcome.differences))

    def test_zz_the_report_is_of_today(self):
        """Last: it tells of all the others."""
        outcomes = [self.outcomes[name] for name in sorted(self.outcomes)]
        if len(outcomes) < len(SCRIPTS):
            self.skipTest("not all scripts were run")
        text = report.write(outcomes, our_schema(self.tidemarkd), self.reference)
        if "--write" in sys.argv:
            DOCUMENT.write_text(text, encoding="utf-8")
        self.assertEqual(text, DOCUMENT.read_text(encoding="utf-8"), "run tests/differential/differential_test.py --write")


SCRIPTS = sorted((HERE / "scripts").glob("*.qmp"))
for script in SCRIPTS:
    setattr(Differential, "test_" + script.stem.replace("-", "_"), lambda self, path=script: self.run_script(path))

if __name__ == "__main__":
    wanted = ["Differential.test_" + name.replace("-", "_") for name in sys.argv[1:] if not name.startswith("-")]
    unittest.main(argv=[sys.argv[0], *wanted])
