"""The installation by hand, run to the letter against an AWS that others wrote; `doctor` finds nothing wrong."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import support
import template
import test_role

PAGE = (support.ROOT / "docs" / "INSTALL-BY-HAND.md").read_text()


def steps():
    """The commands down to the role's policy; looking and running are the test's own."""
    *blocks, last = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(blocks) == 6 and "stagesweep doctor" in last, blocks
    return blocks


class ByHand(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.aws = self.enterContext(support.ministack())
        tools = self.directory / "bin"
        tools.mkdir()
        (tools / "aws").write_text(
            f'#!/bin/sh\nexec {support.TOOLS}/deploy/bin/python {support.ROOT}/tests/deploy/aws "$@"\n'
        )
        (tools / "aws").chmod(0o755)
        (tools / "stagesweep").symlink_to(support.BINARY)
        environment = {**support.ENVIRONMENT, "AWS_ENDPOINT_URL": self.aws.endpoint}
        environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
        command = ["bash", "-e", "-u", "-o", "pipefail", "-c", "".join(steps())]
        done = subprocess.run(command, cwd=self.directory, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.policy = json.loads((self.directory / "iam-policy.json").read_text())

    def written(self, *options, mode="act"):
        """The policy that `iam-policy` writes for the configuration, in the other mode."""
        environment = {**support.ENVIRONMENT, "STAGESWEEP__CLEANUP__MODE": mode}
        command = [support.BINARY, "iam-policy", "--config", "config.toml", *options]
        done = subprocess.run(command, cwd=self.directory, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def examine(self, embedded, role, mode):
        """What `doctor` finds: all of it, and what is not ok."""
        environment = {**support.ENVIRONMENT, "AWS_ENDPOINT_URL": embedded.endpoint, "STAGESWEEP__CLEANUP__MODE": mode}
        for service in ("EVENTBRIDGE", "IAM", "SQS", "STS"):
            environment[f"AWS_ENDPOINT_URL_{service}"] = self.aws.endpoint
        command = [support.BINARY, "doctor", "--config", "config.toml", "--role", role, "--json"]
        done = subprocess.run(command, cwd=self.directory, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        found = json.loads(done.stdout)["items"]
        return {it["check"]: it["detail"] for it in found}, [it["check"] for it in found if it["outcome"] != "ok"]

    def test_doctor_finds_nothing_wrong(self):
        iam = self.aws("iam")
        trust = {"Version": "2012-10-17", "Statement": []}
        role = iam.create_role(RoleName="stagesweep", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        (policy,) = iam.list_policies(Scope="Local")["Policies"]
        iam.attach_role_policy(RoleName="stagesweep", PolicyArn=policy["Arn"])
        with support.embedded(self.directory) as embedded:
            # Nothing has run yet.
            said, wrong = self.examine(embedded, role, "observe")
            self.assertEqual(wrong, ["ledger"], said)
            for check in ("retention", "dead-letter queue", "rule", "queue policy", "parameter", "permissions"):
                self.assertIn(check, said)
            self.assertIn("14 days", said["retention"])
            # What the page says of acting; and this distribution has legacy logs and a web ACL, for which it says
            # what is to be added.
            acting = json.dumps(self.written())
            iam.put_role_policy(RoleName="stagesweep", PolicyName="acting", PolicyDocument=acting)
            said, wrong = self.examine(embedded, role, "act")
            sides = ["s3:GetBucketAcl", "s3:PutBucketAcl", "wafv2:GetWebACL"]
            self.assertEqual(wrong, ["ledger", *sides], said)
            self.assertIn("ssm:PutParameter", said)
            for side in sides:
                self.assertIn(f"`{side}`", PAGE)

    def test_who_observes_may_do_what_who_acts_may_but_change(self):
        acting = self.written()
        actions = lambda policy: {name for it in policy["Statement"] for name in template.actions(it)}
        self.assertEqual(actions(acting) - actions(self.policy), test_role.CHANGES)

    def test_what_is_called_is_allowed_on_what_it_was_about(self):
        # The daemon's, and the operator's, who runs `doctor`.
        statements = self.written()["Statement"] + self.written("--operator")["Statement"]
        allowed = template.Policy(statements)
        published = {action for names, _, _ in allowed.allowed() for action in names}
        for action, account, about in test_role.recorded():
            further = about.endswith(test_role.FURTHER)
            if action in published and account == support.ACCOUNT and not further:
                it = test_role.resource(action, account, about)
                # What takes choices in the templates is not asked of these.
                self.assertTrue(allowed.allows(action, it), f"{action} on {it}")


if __name__ == "__main__":
    unittest.main()
