"""What `make install` puts in place: programs that run, pages, completions, and documents whose links lead somewhere."""
import re
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


if __name__ == "__main__":
    unittest.main()
