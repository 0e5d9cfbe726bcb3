"""The daemon against SQS, SSM, EventBridge, STS, IAM and DynamoDB that others wrote, whose behaviour they compare with AWS's.

Each class has an AWS of its own. Its services are rejected one by one, by an event on the default bus.
"""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import stand
from stand import QUEUE, Stand, parameter, support

PAGE = (support.ROOT / "docs" / "INSTALL-BY-HAND.md").read_text()
DEAD = "stagesweep-dead-letters"


class Case(unittest.TestCase):
    SERVICES = 1
    PROPAGATION = "1500ms"

    @classmethod
    def setUpClass(cls):
        directory = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        aws = cls.enterClassContext(stand.localstack(directory))
        embedded = cls.enterClassContext(support.embedded(directory, cls.SERVICES, cls.PROPAGATION))
        cls.stand = Stand(directory, aws, embedded)
        cls.free = list(cls.stand.services)
        cls.prepare()

    @classmethod
    def prepare(cls):
        """The queue, its dead-letter queue, and the rule, as the page has them; fewer receives."""
        sqs, events = cls.stand.aws("sqs"), cls.stand.aws("events")
        arn = f"arn:aws:sqs:{support.REGION}:{support.ACCOUNT}:"
        sqs.create_queue(QueueName=DEAD)
        redrive = {"deadLetterTargetArn": arn + DEAD, "maxReceiveCount": 3}
        sqs.create_queue(QueueName=QUEUE, Attributes={"RedrivePolicy": json.dumps(redrive)})
        pattern = re.search(r"<<'EOF'\n(.*?)^EOF$", PAGE, re.M | re.S).group(1)
        events.put_rule(Name="stagesweep", EventPattern=pattern)
        events.put_targets(Rule="stagesweep", Targets=[{"Id": "queue", "Arn": arn + QUEUE}])

    def services(self, number):
        """So many that no other test has."""
        taken = [self.free.pop() for _ in range(number)]
        return taken if number > 1 else taken[0]


class ByHand(Case):
    @classmethod
    def prepare(cls):
        """The page, to the letter."""
        tools = cls.stand.directory / "bin"
        tools.mkdir()
        # Version 1, which takes the endpoint of SQS from the option alone.
        cli = f'exec {stand.PYTHON} {stand.PYTHON.parent}/aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"'
        (tools / "aws").write_text(f"#!/bin/sh\n{cli}\n")
        (tools / "aws").chmod(0o755)
        (tools / "stagesweep").symlink_to(support.BINARY)
        *blocks, cls.last = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
        assert len(blocks) == 6 and "stagesweep doctor" in cls.last, blocks
        cls.shell("".join(blocks))

    @classmethod
    def shell(cls, text):
        tools = f"{cls.stand.directory}/bin{os.pathsep}{os.environ['PATH']}"
        environment = {**cls.stand.environment, "AWS_DEFAULT_REGION": support.REGION, "PATH": tools}
        command = ["bash", "-e", "-u", "-o", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=cls.stand.directory, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def test_the_page_ends_in_a_daemon_that_observes_and_then_acts(self):
        it, config = self.stand, self.stand.directory / "config.toml"
        service = self.services(1)
        iam = it.aws("iam")
        trust = {"Version": "2012-10-17", "Statement": []}
        iam.create_role(RoleName="stagesweep", AssumeRolePolicyDocument=json.dumps(trust))
        (policy,) = iam.list_policies(Scope="Local")["Policies"]
        iam.attach_role_policy(RoleName="stagesweep", PolicyArn=policy["Arn"])
        doctor = self.last.splitlines()[0] + " --json || test $? = 1"
        found = json.loads(self.shell(f"ACCOUNT={support.ACCOUNT}\n{doctor}"))["items"]
        # LocalStack's simulation of policies knows no wildcards: it denies what is named with one.
        simulated = lambda item: item["detail"] == "denied by IAM's simulation: a statement forbids it"
        wrong = [item for item in found if item["outcome"] != "ok" and not simulated(item)]
        self.assertEqual([item["check"] for item in wrong], ["ledger"], wrong)
        staging = it.deploy(service)
        with it.daemon(config) as daemon:
            event = it.reject(service)
            daemon.says("cleanup observed")
            support.until("its message is gone", lambda: it.depth() == (0, 0))
            daemon.stop()
        self.assertEqual(it.values(service)[-1], staging)
        self.assertEqual(len(it.left(service, staging)), 2)
        config.write_text(config.read_text().replace('"observe"', '"act"'))
        self.shell("stagesweep iam-policy --config config.toml > iam-policy.json")
        self.shell(
            f"aws iam create-policy-version --set-as-default --policy-arn {policy['Arn']} "
            "--policy-document file://iam-policy.json"
        )
        with it.daemon(config) as daemon:
            it.send(event)
            it.settled({service: staging})
            daemon.stop()


class Messages(Case):
    SERVICES = 6

    def test_a_rejection_with_duplicates_is_one_cleanup(self):
        it, (shop, blog) = self.stand, self.services(2)
        staging = {service: it.deploy(service) for service in (shop, blog)}
        with it.daemon(it.configure()) as daemon:
            event = it.reject(shop, times=5)
            it.reject(blog, times=2)
            it.settled(staging)
            it.send(event, times=3)  # days later
            support.until("the queue is empty", lambda: it.depth() == (0, 0))
            daemon.stop()
            ended = [line for line in daemon.lines() if line.get("message", "").startswith("cleanup succeeded")]
            self.assertEqual(len(ended), 2, daemon.log.read_text())
        self.assertEqual(it.depth(DEAD), (0, 0))

    def test_a_service_is_deployed_and_rejected_again(self):
        it, service = self.stand, self.services(1)
        with it.daemon(it.configure()) as daemon:
            for _ in range(2):
                staging = it.deploy(service)
                it.reject(service)
                it.settled({service: staging})
            daemon.stop()

    def test_a_stop_gives_the_message_back(self):
        it, service = self.stand, self.services(1)
        config, staging = it.configure(), it.deploy(service)
        with it.daemon(config) as daemon:
            it.reject(service)
            support.until("the name is withdrawn", lambda: it.values(service)[-1] == "deleted")
            daemon.stop()
            daemon.says("message released", message_visible_in_ms=0)
            # A receive that the daemon no longer waits for may have taken it once more.
            self.assertEqual(sum(it.depth()), 1, daemon.log.read_text())
        with it.daemon(config) as daemon:
            it.settled({service: staging})
            daemon.stop()

    def test_what_is_refused_becomes_a_dead_letter_and_comes_back(self):
        it, service = self.stand, self.services(1)
        config, staging, ssm = it.configure(), it.deploy(service), it.aws("ssm")
        name = parameter(service, "production")
        right = ssm.get_parameter(Name=name)["Parameter"]["Value"]
        ssm.put_parameter(Name=name, Value="not-an-id", Overwrite=True)
        with it.daemon(config) as daemon:
            it.reject(service)
            it.aws("sqs").send_message(QueueUrl=it.queue_url(), MessageBody="{")
            support.until("both are dead letters", lambda: (it.depth(), sum(it.depth(DEAD))) == ((0, 0), 2))
            listed = it.verb(config, "dead-letters")["items"]
            reasons = {item["reason"]: item["message_id"] for item in listed}
            self.assertEqual(reasons.keys(), {"not_an_envelope", "production_parameter_invalid"}, listed)
            ssm.put_parameter(Name=name, Value=right, Overwrite=True)
            refused = reasons["production_parameter_invalid"]
            found = it.verb(config, "dead-letters", "--redrive", refused)["items"]
            outcomes = {item["message_id"]: item["outcome"] for item in found}
            self.assertEqual(outcomes[refused], "redriven", found)
            it.settled({service: staging})
            daemon.stop()
        self.assertEqual(sum(it.depth(DEAD)), 1)
        it.aws("sqs").purge_queue(QueueUrl=it.queue_url(DEAD))

    def test_a_daemon_that_is_killed_at_every_step_ends_clean(self):
        it, service = self.stand, self.services(1)
        config, staging = it.configure(), it.deploy(service)
        steps = {
            "withdrawn": lambda: it.values(service)[-1] == "deleted",
            "detached": lambda: it.left(service, staging) == [staging],
            "disabled": lambda: it.setting(staging, "Enabled") is False,
        }
        it.reject(service)
        for step, is_taken in steps.items():
            with it.daemon(config) as daemon:
                support.until(lambda: f"{step}\n{daemon.log.read_text()}", is_taken)
                daemon.child.kill()
        with it.daemon(config) as daemon:
            it.settled({service: staging})
            daemon.stop()


class Fleet(Case):
    SERVICES = 8

    def test_two_instances_share_a_table_and_one_is_killed(self):
        it, services = self.stand, self.services(self.SERVICES)
        it.aws("dynamodb").create_table(
            TableName="stagesweep-ledger",
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        config = it.configure()
        table = {"STAGESWEEP__LEDGER__BACKEND": "dynamodb", "STAGESWEEP__LEDGER__TABLE": "stagesweep-ledger"}
        # Few at a time, so that both have some.
        table["STAGESWEEP__QUEUE__MAX_IN_FLIGHT"] = "4"
        staging = {service: it.deploy(service) for service in services}
        with it.daemon(config, **table) as one, it.daemon(config, **table) as two:
            for service in services:
                it.reject(service, times=3)
            for daemon in (one, two):
                daemon.says("cleanup started")
            withdrawn = lambda: any(it.values(service)[-1] == "deleted" for service in services)
            support.until("one name is withdrawn", withdrawn)
            one.child.kill()
            it.settled(staging)
            two.stop()
        self.assertEqual(it.depth(DEAD), (0, 0))


if __name__ == "__main__":
    unittest.main()
