"""The roles allow exactly what the program calls.

Every test that runs the daemon against the embedded AWS appends the operations that it called to a file
(tests/process/calls.rs), and those of `doctor` what it asks EventBridge and IAM. Allowed beyond these is only what is listed here, each with its reason.
"""

import re
import unittest

import support
import template

CALLS = support.ROOT / "target" / "tmp" / "aws-calls.txt"
README = support.ROOT / "README.md"

# Actions that no call of the program needs by name.
BEYOND = {
    "kms:Decrypt": "SQS and DynamoDB make it in the caller's name, where the stack has a key of its own",
    "s3:GetBucketAcl": "CloudFront checks it of whoever updates a distribution with legacy logs",
    "s3:PutBucketAcl": "the same",
    "wafv2:GetWebACL": "CloudFront checks it of whoever updates a distribution with a web ACL",
    "ssm:DescribeParameters": "`orphans` calls it, where a task runs that on a schedule",
    "dynamodb:Scan": "the same",
    "logs:CreateLogStream": "the CloudWatch agent's, under the instance's role",
    "logs:DescribeLogStreams": "the same",
    "logs:PutLogEvents": "the same",
}

# IAM has no action of its own for a batch.
BATCH = re.compile(r"Batch$")


def called():
    lines = CALLS.read_text().split("\n")
    pairs = {tuple(line.split(" ")) for line in lines if line}
    return {f"{service}:{BATCH.sub('', operation)}" for service, operation in pairs if service != "unknown"}


def allowed(file):
    statements = template.statements(template.load(support.DEPLOY / file))
    return {action for _, statement in statements for action in template.actions(statement)}


class Role(unittest.TestCase):
    def test_the_role_allows_every_call_and_nothing_else(self):
        found = called()
        # The record is one of a whole cleanup, not an empty file.
        self.assertIn("cloudfront:DeleteDistribution", found)
        self.assertEqual(allowed("cloudformation.yaml") - set(BEYOND), found)
        self.assertLessEqual(set(BEYOND), allowed("cloudformation.yaml"))

    def test_the_role_in_another_account_allows_what_is_called_there(self):
        there = {it for it in called() if it.startswith(("cloudfront:", "codepipeline:", "iam:", "ssm:"))}
        # A pattern's pipelines are listed in the daemon's own account.
        there.remove("codepipeline:ListPipelines")
        self.assertEqual(allowed("cloudformation-target-account.yaml") - set(BEYOND), there)

    def test_without_a_choice_the_role_is_the_one_in_the_readme(self):
        resources = template.load(support.DEPLOY / "cloudformation.yaml")
        always = {
            action
            for name, statement in template.statements(resources)
            if "Condition" not in resources["Resources"][name]
            for action in template.actions(statement)
        }
        policy = README.read_text().split("cat > iam-policy.json", 1)[1].split("\nEOF\n", 1)[0]
        self.assertEqual(always, set(re.findall(r'"([a-z0-9]+:[A-Z]\w+)"', policy)))

    def test_star_stands_only_where_iam_takes_nothing_else(self):
        for file in ("cloudformation.yaml", "cloudformation-target-account.yaml"):
            for _, statement in template.statements(template.load(support.DEPLOY / file)):
                for action in template.actions(statement):
                    self.assertNotIn("*", action)
                if statement["Resource"] == "*":
                    # AWS service authorization reference: they have no resource type.
                    lists = {
                        "cloudfront:ListContinuousDeploymentPolicies",
                        "cloudfront:ListDistributions",
                        "events:ListRuleNamesByTarget",
                        "ssm:DescribeParameters",
                    }
                    self.assertLessEqual(set(template.actions(statement)), lists)


if __name__ == "__main__":
    unittest.main()
