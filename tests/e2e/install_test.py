"""The way onto a machine: `make` sees to what it needs before anything else, and what `make install` puts in place is
programs that run, pages, completions, and documents whose links lead somewhere."""
import os
import pathlib
import re
import shutil
import unittest

from bed import DONE, Bed


class Installed(Bed):
    def setUp(self):
        super().setUp()
        build = self.tidemark.parent
        self.lab.run("cmake", "--install", build, "--prefix", self.path / "usr", timeout=120)
        self.installed = {str(p.relative_to(self.path / "usr")) for p in (self.path / "usr").rglob("*") if p.is_file()}

    def test_programs_run(self):
        for name in ("tidemark", "tidemarkd"):
            done = self.lab.run(self.path / "usr" / "bin" / name, "--version", ok=None)
            self.assertEqual((done.returncode, done.stdout.split()[0]), (DONE, name))

    def test_pages_and_completions(self):
        self.assertLessEqual({"share/man/man1/tidemark.1", "share/man/man8/tidemarkd.8",
                              "share/bash-completion/completions/tidemark",
                              "share/bash-completion/completions/tidemarkd"}, self.installed)

    def test_links_of_documents(self):
        documents = [name for name in self.installed if name.endswith(".md")]
        self.assertGreater(len(documents), 5)
        links = 0
        for name in documents:
            text = (self.path / "usr" / name).read_text()
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
                if "://" not in target:
                    links += 1
                    self.assertTrue(((self.path / "usr" / name).parent / target).exists(), f"{name}: {target}")
        self.assertGreater(links, 5)


class FreshMachine(Bed):
    """The Makefile on a machine that has none of the packages, for a user who may not install them."""

    def setUp(self):
        super().setUp()
        project = pathlib.Path(__file__).resolve().parents[2]
        self.copy = self.path / "copy"
        (self.copy / "tools").mkdir(parents=True)
        for name in ("Makefile", "tools/setup", "tools/dependencies"):
            shutil.copy(project / name, self.copy / name)
        self.stand_in("id", "echo 1000")
        self.stand_in("dpkg-query", "exit 1")
        self.stand_in("cmake", "echo cmake was run")

    def stand_in(self, name, script):
        program = self.path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def test_each_target_names_what_is_missing_and_builds_nothing(self):
        path = f"{self.path / 'bin'}:{os.environ['PATH']}"
        for target in ("all", "demo", "test", "bench", "install", "test-asan", "test-clang"):
            with self.subTest(target=target):
                done = self.lab.run("env", f"PATH={path}", "make", "-j2", "-C", self.copy, target, ok=None)
                self.assertEqual(done.returncode, 2)
                self.assertIn("setup: missing packages; as root run: apt-get install g++ make cmake", done.stderr)
                self.assertNotIn("cmake was run", done.stdout)

    def test_programs_are_configured_without_the_packages_of_tests(self):
        plan = self.lab.run("make", "-n", "-C", self.copy, "all").stdout
        options = re.findall(r"-DTIDEMARK\S+", plan)
        hidden = [f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON" for name in ("GTest", "rapidcheck", "benchmark")]
        project = pathlib.Path(__file__).resolve().parents[2]
        self.lab.run("cmake", "-G", "Ninja", "-S", project, "-B", self.path / "build", *options, *hidden, timeout=120)


if __name__ == "__main__":
    unittest.main()
