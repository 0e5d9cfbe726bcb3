"""The notes of a release are what CHANGELOG.md says of it; the workflows name what there is."""

import pathlib
import re
import runpy
import subprocess
import sys
import unittest

import yaml

import support

NOTES = support.DEPLOY / "packaging" / "notes.py"
WORKFLOWS = support.ROOT / ".github" / "workflows"


class Release(unittest.TestCase):
    def test_the_notes_of_a_version_are_its_part_of_the_page(self):
        notes = runpy.run_path(str(NOTES))["notes"]
        page = (
            "# Changelog\n\n## [Unreleased]\n\n- soon\n\n## [1.2.0] - 2026-11-30\n\n### Added\n\n- this\n\n"
            "## [1.1.0]\n\n- that\n\n## [1.0.0]\n\n[1.1.0]: https://example.com\n"
        )
        self.assertEqual(notes(page, "1.2.0"), "### Added\n\n- this")
        self.assertEqual(notes(page, "1.1.0"), "- that")
        for version in ("1.0.0", "1.3.0", "1.2"):
            self.assertIsNone(notes(page, version))
        # The repository's own page is read so. What is not released yet may be nothing.
        text = (support.ROOT / "CHANGELOG.md").read_text()
        versions = re.findall(r"^## \[([^\]]+)\]", text, re.M)
        self.assertIn("### ", notes(text, versions[0]) or notes(text, versions[-1]))
        done = subprocess.run([sys.executable, NOTES, "0.0.0"], capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("## [Unreleased]", done.stderr)

    def test_every_script_that_a_workflow_runs_is_there(self):
        ran = set()
        for path in WORKFLOWS.glob("*.yml"):
            for job in yaml.safe_load(path.read_text())["jobs"].values():
                for step in job["steps"]:
                    ran |= set(re.findall(r"(?<![\w/])(?:\./)?((?:deploy|tests)/[\w./-]+)", step.get("run", "")))
        self.assertLessEqual({"deploy/release", "deploy/push-image", "deploy/packaging/notes.py"}, ran)
        for name in ran:
            self.assertTrue(pathlib.Path(support.ROOT, name).exists(), name)

    def test_the_templates_default_is_a_processor_that_is_built_for(self):
        build = yaml.safe_load((WORKFLOWS / "release.yml").read_text())["jobs"]["build"]
        self.assertEqual(build["strategy"]["matrix"]["runner"], ["ubuntu-24.04", "ubuntu-24.04-arm"])
        (image,) = [step["run"] for step in build["steps"] if "./deploy/release" in step.get("run", "")]
        self.assertIn(" image ", image)


if __name__ == "__main__":
    unittest.main()
