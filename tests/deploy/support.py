"""What the tests of deploy/ share: servers on loopback addresses, and waiting for conditions.

Nothing here sleeps for luck: every wait is for a condition and ends after PATIENCE in a failure.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time

import botocore.config
import botocore.session

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
# The two of the daemon's account, by where the daemon runs.
ON_ECS = DEPLOY / "cloudformation-ecs.yaml"
ON_EC2 = DEPLOY / "cloudformation-ec2.yaml"
TOOLS = ROOT / "target" / "tools"
BINARY = pathlib.Path(os.environ.get("STAGESWEEP_BINARY", ROOT / "target" / "debug" / "stagesweep"))
REGION = "ap-northeast-1"
# The account of the embedded AWS. ministack takes an access key that is an account for that account's.
ACCOUNT = "123456789012"
PATIENCE = 60  # seconds; longer than any wait takes on a busy machine

TARGET = """
[[targets]]
pipeline = "{service}-frontend-pipeline"
stage = "Approve"
action = "Approve"
production_parameter = "/{service}/cloudfront/cfcd-production"
staging_parameter = "/{service}/cloudfront/cfcd-staging"
"""

# Nothing in the environment of a child leads out of this machine.
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": REGION,
    "AWS_ACCESS_KEY_ID": ACCOUNT,
    "AWS_SECRET_ACCESS_KEY": "test",
}

# ministack, but its event bus takes events of AWS services from the test, as from the service.
MINISTACK = """
from ministack.services import eventbridge
eventbridge._put_events.__defaults__ = (True,)
from ministack.app import main
main()
"""


def until(what, condition, patience=PATIENCE):
    """Waits until `condition` returns something, and returns that. `what` may be made at the end."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"never: {what() if callable(what) else what}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def process(command, environment, log):
    """A child that is ended with the block; what it wrote is in the file `log`."""
    with open(log, "wb") as out:
        child = subprocess.Popen(
            [str(part) for part in command],
            env={**ENVIRONMENT, **environment},
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


class Client:
    """Clients of a server on this machine."""

    def __init__(self, endpoint):
        self.endpoint = endpoint

    def __call__(self, service):
        session = botocore.session.Session()
        session.set_credentials(ACCOUNT, "test")
        return session.create_client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            config=botocore.config.Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        )


@contextlib.contextmanager
def ministack():
    """An AWS that others wrote."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        log = pathlib.Path(directory, "ministack.log")
        settings = {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "HOME": directory,
        }
        python = TOOLS / "python" / "bin" / "python"
        with process([python, "-c", MINISTACK], settings, log) as child:

            def listens():
                if child.poll() is not None:
                    raise AssertionError(f"ministack ended: {log.read_text()}")
                with socket.socket() as probe:
                    return probe.connect_ex(("127.0.0.1", port)) == 0

            until("ministack listens", listens)
            yield Client(f"http://127.0.0.1:{port}")


class Embedded(Client):
    """The AWS in the program, with one rejection on its queue."""

    def __init__(self, endpoint, queue_url):
        super().__init__(endpoint)
        self.queue_url = queue_url

    def rejection(self):
        """The event that waits on its queue, which is then empty."""
        sqs = self("sqs")
        message = sqs.receive_message(QueueUrl=self.queue_url)["Messages"][0]
        sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])
        return json.loads(message["Body"])

    def distributions(self):
        found = self("cloudfront").list_distributions()["DistributionList"].get("Items", [])
        return [(it["Id"], it["Staging"]) for it in found]

    def parameter(self, name):
        return self("ssm").get_parameter(Name=name)["Parameter"]["Value"]


@contextlib.contextmanager
def embedded(directory, services=1, propagation="300ms"):
    log = pathlib.Path(directory, "embedded.log")
    command = [BINARY, "rehearse", "--serve", "127.0.0.1:0", "--propagation", propagation, "--services", services]
    with process(command, {}, log):

        def exported():
            found = dict(re.findall(r"^export (\w+)=(\S+)$", log.read_text(), re.M))
            return found if "STAGESWEEP__QUEUE__URL" in found else None

        found = until("the embedded AWS says where it is", exported)
        yield Embedded(found["AWS_ENDPOINT_URL"], found["STAGESWEEP__QUEUE__URL"])


def put_event(events, event):
    """Puts the whole event on the default bus, as the service that it is from would."""
    entry = {
        "Source": event["source"],
        "DetailType": event["detail-type"],
        "Resources": event["resources"],
        "Detail": json.dumps(event["detail"]),
    }
    answer = events.put_events(Entries=[entry])
    assert answer["FailedEntryCount"] == 0, answer


def create_stack(client, name, template, parameters, capabilities=("CAPABILITY_NAMED_IAM",)):
    """Creates a stack, waits for it, and returns its outputs."""
    cloudformation = client("cloudformation")
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=template,
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=list(capabilities),
    )

    def ended():
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        return None if stack["StackStatus"].endswith("IN_PROGRESS") else stack

    stack = until(f"the stack {name} is there", ended)
    if stack["StackStatus"] != "CREATE_COMPLETE":
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        reasons = [it for it in events if "FAILED" in it.get("ResourceStatus", "")]
        raise AssertionError(f"{stack['StackStatus']}: {json.dumps(reasons, default=str, indent=1)}")
    return {it["OutputKey"]: it["OutputValue"] for it in stack.get("Outputs", [])}
