"""Linters that others wrote, on everything in deploy/. Each exception stands beside what it excepts."""

import json
import pathlib
import re
import subprocess
import unittest

import support

BIN = support.TOOLS / "deploy" / "bin"
TEMPLATES = sorted(it.name for it in support.DEPLOY.glob("cloudformation-*.yaml"))
# CloudFormation: the size of a template that is sent as it is, without a bucket.
SENT = 51_200


def run(*command):
    done = subprocess.run(
        [str(part) for part in command], cwd=support.DEPLOY, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


class Lint(unittest.TestCase):
    def test_cfn_lint(self):
        code, said = run(BIN / "cfn-lint", "--regions", "ap-northeast-1", "us-east-1", "eu-west-1", "--", *TEMPLATES)
        self.assertEqual((code, said), (0, ""), said)

    def test_a_template_can_be_sent_as_it_is(self):
        for it in TEMPLATES:
            self.assertLess((support.DEPLOY / it).stat().st_size, SENT - 1000, it)

    def checkov(self, framework, *where):
        # --skip-download: it would ask its maker's service for links to guidelines.
        code, said = run(
            BIN / "checkov", "--skip-download", "--framework", framework, "--output", "json", "--quiet", *where
        )
        report = json.loads(said)
        for it in report["results"]["failed_checks"]:
            print(it["check_id"], it["file_path"], it["resource"], it["check_name"])
        self.assertEqual((code, report["summary"]["failed"]), (0, 0))
        self.assertEqual(report["summary"]["parsing_errors"], 0)
        return report["summary"]["passed"]

    def test_checkov_on_cloudformation(self):
        files = [part for it in TEMPLATES for part in ("--file", it)]
        self.assertGreater(self.checkov("cloudformation", *files), 150)

    def test_checkov_on_terraform(self):
        self.assertGreater(self.checkov("terraform", "--directory", "terraform"), 200)

    def test_every_exception_has_its_reason(self):
        for path in support.DEPLOY.rglob("*"):
            if path.suffix not in (".yaml", ".tf") or "node_modules" in path.parts:
                continue
            text = path.read_text()
            for reason in re.findall(r"checkov:skip=\w+:?(.*)", text):
                self.assertGreater(len(reason), 20, path)
            skips = re.findall(r"- id: CKV\w+\n\s+comment: (.*)", text)
            self.assertEqual(len(skips), text.count("- id: CKV"), path)
            for before in re.findall(r"^(.*)\n\s+ignore_checks:", text, re.M):
                self.assertTrue(before.strip().startswith("#"), path)


if __name__ == "__main__":
    unittest.main()
