"""The roles allow exactly what the program calls.

Every test that runs the daemon against the embedded AWS appends what it called, and on what, to a file
(tests/process/harness.rs), and those of `doctor` what it asks beyond that. Allowed beyond these is only what is
listed here, each with its reason.
"""

import json
import re
import subprocess
import unittest

import support
import template

CALLS = support.ROOT / "target" / "tmp" / "aws-calls.txt"

# Actions that no call of the program needs by name.
BEYOND = {
    "kms:Decrypt": "SQS and DynamoDB make it in the caller's name, where the stack has a key of its own",
    "s3:GetBucketAcl": "CloudFront checks it of whoever updates a distribution with legacy logs",
    "s3:PutBucketAcl": "the same",
    "wafv2:GetWebACL": "CloudFront checks it of whoever updates a distribution with a web ACL",
    "logs:CreateLogStream": "the CloudWatch agent's, under the instance's role",
    "logs:DescribeLogStreams": "the same",
    "logs:PutLogEvents": "the same",
}

# What changes something of a deployment: in the policy that an observer's role has not.
ACTING = "Acting"
CHANGES = {
    "cloudfront:DeleteContinuousDeploymentPolicy",
    "cloudfront:DeleteDistribution",
    "cloudfront:UpdateDistribution",
    "ssm:PutParameter",
}

# IAM has no action of its own for a batch.
BATCH = re.compile(r"Batch$")


OTHER_ACCOUNT = "210987654321"
BUS = f"arn:aws:events:{support.REGION}:{support.ACCOUNT}:event-bus/outcomes"

# The pipelines of further targets in some of the tests.
FURTHER = "-backend-pipeline"

# With all that can be chosen. The names are those of the tests.
STACK = template.Stack(
    template.load(support.ON_ECS),
    support.ACCOUNT,
    support.REGION,
    Mode="act",
    NotifyEventBusArn=BUS,
    MorePipelineArns=f"arn:aws:codepipeline:{support.REGION}:{support.ACCOUNT}:*{FURTHER}",
    CatchUpInterval="15m",
    TargetRoleArns=f"arn:aws:iam::{OTHER_ACCOUNT}:role/stagesweep",
)
THERE = template.Stack(
    template.load(support.DEPLOY / "cloudformation-target-account.yaml"),
    OTHER_ACCOUNT,
    support.REGION,
    Mode="act",
)


def recorded():
    """Every call: the action that allows it, the account whose credentials it had, what it was about."""
    for line in set(CALLS.read_text().splitlines()):
        service, operation, account, about = line.split(" ", 3)
        # A test of a queue that does not exist calls it so.
        if service != "unknown" and about != "nowhere":
            yield f"{service}:{BATCH.sub('', operation)}", account, about


def called():
    return {action for action, _, _ in recorded()}


def resource(action, account, about):
    """What a call was about, as IAM names it."""
    service, operation = action.split(":")
    here = f"arn:aws:{service}:{support.REGION}:{account}"
    if action == "events:PutEvents":  # the record does not say on which
        return BUS
    if action == "codepipeline:ListPipelines":
        return f"{here}:"
    if about == "-":
        return "*"
    if service == "cloudfront":
        kind = "continuous-deployment-policy" if "Policy" in operation else "distribution"
        return f"arn:aws:cloudfront::{account}:{kind}/{about}"
    if service == "iam":  # each test gives the daemon a name of its own
        return f"arn:aws:iam::{account}:role/stagesweep"
    return {
        "codepipeline": f"{here}:{about}",
        "dynamodb": f"{here}:table/{about}",
        "events": f"{here}:{'event-bus' if operation == 'DescribeEventBus' else 'rule'}/{about}",
        "sqs": f"{here}:{about.replace('-dlq', '-dead-letters')}",
        "ssm": f"{here}:parameter{about}",
        "sts": about,
    }[service]


def allowed(*paths):
    return {
        action
        for path in paths
        for _, statement in template.statements(template.load(path))
        for action in template.actions(statement)
    }


def written(*options, **environment):
    """The actions in a policy that the program writes."""
    environment = {
        **support.ENVIRONMENT,
        "STAGESWEEP__QUEUE__URL": f"https://sqs.{support.REGION}.amazonaws.com/{support.ACCOUNT}/stagesweep",
        "STAGESWEEP_CONFIG_TOML": support.TARGET,
        **environment,
    }
    done = subprocess.run(
        [support.BINARY, "iam-policy", *options], env=environment, capture_output=True, text=True, check=True
    )
    return {action for it in json.loads(done.stdout)["Statement"] for action in template.actions(it)}


class Role(unittest.TestCase):
    def test_the_role_allows_every_call_and_nothing_else(self):
        found = called()
        # The record is one of a whole cleanup, not an empty file.
        self.assertIn("cloudfront:DeleteDistribution", found)
        may = allowed(support.ON_ECS, support.ON_EC2)
        self.assertEqual(may - set(BEYOND), found)
        self.assertLessEqual(set(BEYOND), may)

    def test_the_role_in_another_account_allows_what_is_called_there(self):
        there = {it for it in called() if it.startswith(("cloudfront:", "codepipeline:", "iam:", "ssm:"))}
        # A pattern's pipelines and parameters are listed in the daemon's own account.
        there -= {"codepipeline:ListPipelines", "ssm:DescribeParameters"}
        self.assertEqual(allowed(support.DEPLOY / "cloudformation-target-account.yaml") - set(BEYOND), there)

    def test_each_call_is_allowed_on_what_it_was_about(self):
        for action, account, about in recorded():
            stack = STACK if account == support.ACCOUNT else THERE
            it = resource(action, account, about)
            self.assertTrue(stack.allows(action, it, **{"events:source": "stagesweep"}), f"{action} on {it}")

    def test_nothing_else_than_that_may_be_changed(self):
        here = f"{support.REGION}:{support.ACCOUNT}"
        tagged = template.Stack(STACK.template, support.ACCOUNT, support.REGION, DeleteOnlyTagged="yes", Mode="act")
        distribution = f"arn:aws:cloudfront::{support.ACCOUNT}:distribution/E1"
        self.assertTrue(STACK.allows("cloudfront:DeleteDistribution", distribution))
        self.assertTrue(
            tagged.allows("cloudfront:DeleteDistribution", distribution, **{"aws:ResourceTag/stagesweep": "staging"})
        )
        for stack, action, it in (
            (tagged, "cloudfront:DeleteDistribution", distribution),
            (STACK, "cloudfront:DeleteDistribution", f"arn:aws:cloudfront::{OTHER_ACCOUNT}:distribution/E1"),
            (STACK, "ssm:PutParameter", f"arn:aws:ssm:{here}:parameter/shop/cloudfront/cfcd-production"),
            (STACK, "ssm:GetParameter", f"arn:aws:ssm:{here}:parameter/shop/password"),
            (STACK, "sqs:ReceiveMessage", f"arn:aws:sqs:{here}:stagesweep-dead-letters"),
            (STACK, "sqs:DeleteMessage", f"arn:aws:sqs:{here}:another"),
            (STACK, "codepipeline:GetPipelineState", f"arn:aws:codepipeline:{here}:backend"),
            (STACK, "iam:SimulatePrincipalPolicy", f"arn:aws:iam::{support.ACCOUNT}:role/another"),
            (STACK, "sts:AssumeRole", f"arn:aws:iam::{OTHER_ACCOUNT}:role/another"),
            (STACK, "events:PutEvents", BUS),
        ):
            self.assertFalse(stack.allows(action, it), f"{action} on {it}")

    def test_on_ec2_doctor_and_orphans_may_look_and_a_file_takes_no_table(self):
        on_ec2 = {"MorePipelineArns": f"arn:aws:codepipeline:{support.REGION}:{support.ACCOUNT}:a"}
        for fleet in ("no", "yes"):
            stack = template.Stack(
                template.load(support.ON_EC2), support.ACCOUNT, support.REGION, Fleet=fleet, **on_ec2
            )
            self.assertTrue(stack.allows("ssm:DescribeParameters", "*"))
            for pipeline in ("shop-frontend-pipeline", "a"):
                it = f"arn:aws:codepipeline:{support.REGION}:{support.ACCOUNT}:{pipeline}"
                for action in ("GetPipelineState", "ListActionExecutions", "ListPipelineExecutions"):
                    self.assertTrue(stack.allows(f"codepipeline:{action}", it))
            scans = {name for names, _, _ in stack.allowed() for name in names if name.startswith("dynamodb:")}
            expected = {"dynamodb:GetItem", "dynamodb:UpdateItem", "dynamodb:Scan"} if fleet == "yes" else set()
            self.assertEqual(scans, expected)

    def test_without_a_choice_the_roles_are_what_iam_policy_writes(self):
        table = {"STAGESWEEP__LEDGER__BACKEND": "dynamodb", "STAGESWEEP__LEDGER__TABLE": "ledger"}
        of = lambda role: {
            action
            for names, _, _ in template.Stack(
                STACK.template, support.ACCOUNT, support.REGION, role=role, Mode="act"
            ).allowed()
            for action in names
        }
        doctors = {
            action
            for name, it in template.statements(STACK.template)
            if name == "DoctorAccess"
            for action in template.actions(it)
        }
        self.assertEqual(of("Role") - doctors, written(**table) - doctors)
        self.assertEqual(of("OperatorRole"), written("--operator", **table))

    def test_the_operator_may_take_dead_letters_and_nothing_of_the_queue(self):
        operator = template.Stack(STACK.template, support.ACCOUNT, support.REGION, role="OperatorRole")
        queue = f"arn:aws:sqs:{support.REGION}:{support.ACCOUNT}:stagesweep"
        self.assertTrue(operator.allows("sqs:DeleteMessage", f"{queue}-dead-letters"))
        self.assertFalse(operator.allows("sqs:DeleteMessage", queue))
        # Where the daemon only observes, so does who is on call, unless with rights of his own.
        self.assertEqual({name for names, _, _ in operator.allowed() for name in names} & CHANGES, set())

    def test_an_observer_may_change_nothing(self):
        observer = template.Stack(STACK.template, support.ACCOUNT, support.REGION, Mode="observe")
        may = {action for names, _, _ in observer.allowed() for action in names}
        self.assertEqual(may & CHANGES, set())
        there = template.Stack(THERE.template, OTHER_ACCOUNT, support.REGION, Mode="observe")
        self.assertEqual({action for names, _, _ in there.allowed() for action in names} & CHANGES, set())
        acts = {action for names, _, _ in STACK.allowed() for action in names}
        self.assertLessEqual(CHANGES, acts)

    def test_star_stands_only_where_iam_takes_nothing_else(self):
        for file in (support.ON_ECS, support.ON_EC2, support.DEPLOY / "cloudformation-target-account.yaml"):
            for _, statement in template.statements(template.load(file)):
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
