"""A stand for the program: most of AWS is LocalStack, CloudFront and CodePipeline are the embedded AWS."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "deploy"))
import support  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = pathlib.Path(sys.executable)
EMBEDDED = ("CLOUDFRONT", "CODEPIPELINE")
QUEUE = "stagesweep"
PIPELINE = "-frontend-pipeline"

# Short times: a cleanup outlasts its message's visibility timeout.
TIMES = {
    "STAGESWEEP__QUEUE__WAIT_TIME": "1s",
    "STAGESWEEP__QUEUE__VISIBILITY_TIMEOUT": "2s",
    "STAGESWEEP__QUEUE__HEARTBEAT_INTERVAL": "700ms",
    "STAGESWEEP__CLEANUP__POLL_INTERVAL_MIN": "100ms",
    "STAGESWEEP__CLEANUP__POLL_INTERVAL_MAX": "250ms",
    "STAGESWEEP__RETRY__INITIAL_BACKOFF": "300ms",
    "STAGESWEEP__RETRY__MAX_BACKOFF": "1s",
    "STAGESWEEP__TELEMETRY__LOG_FORMAT": "json",
}



@contextlib.contextmanager
def localstack(directory):
    port = support.free_port()
    settings = {
        "HOME": str(directory),
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "LOCALSTACK_HOST": f"127.0.0.1:{port}",
        "SERVICES": "sqs,ssm,events,sts,iam,dynamodb",
        # A queue's URL ends in its account and its name, as at AWS.
        "SQS_ENDPOINT_STRATEGY": "off",
        "DISABLE_EVENTS": "1",  # reports nothing to anybody
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DNS_ADDRESS": "0",
    }
    log = directory / "localstack.log"
    with support.process([PYTHON, HERE / "start.py"], settings, log) as child:

        def is_ready():
            if child.poll() is not None:
                raise AssertionError(f"LocalStack ended: {log.read_text()}")
            return "Ready." in log.read_text()

        support.until("LocalStack is ready", is_ready)
        yield support.Client(f"http://127.0.0.1:{port}")


class Daemon:
    """`stagesweep run`, and what it says."""

    def __init__(self, child, log):
        self.child, self.log = child, log

    def lines(self):
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def says(self, message, **fields):
        """The first line that begins so and has these fields, by the names with `_` for `.`."""

        def found():
            for line in self.lines():
                has = {name.replace(".", "_"): value for name, value in line.items()}
                if line.get("message", "").startswith(message) and fields.items() <= has.items():
                    return line

        return support.until(lambda: f"{message} {fields}\n{self.log.read_text()}", found)

    def stop(self):
        self.child.terminate()
        assert self.child.wait(support.PATIENCE) == 0, self.log.read_text()


class Stand:
    """The AWS of one test class: services with a pipeline each, nothing deployed, nothing rejected."""

    def __init__(self, directory, aws, embedded):
        self.directory, self.aws, self.embedded = directory, aws, embedded
        self.started = 0
        # What the embedded AWS begins with is cleaned there.
        config = directory / "embedded.toml"
        config.write_text(f'[queue]\nurl = "{embedded.queue_url}"\n[ledger]\npath = "{directory}/embedded.db"\n{support.TARGET}')
        environment = {**support.ENVIRONMENT, **TIMES, "AWS_ENDPOINT_URL": embedded.endpoint}
        command = [support.BINARY, "run", "--drain", "--config", config]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=support.PATIENCE)
        names = [it["name"] for it in embedded("codepipeline").list_pipelines()["pipelines"]]
        self.services = sorted(name.removesuffix(PIPELINE) for name in names)
        for service in self.services:
            for which, value in (("production", embedded.parameter(parameter(service, "production"))), ("staging", "dummy")):
                self.aws("ssm").put_parameter(Name=parameter(service, which), Value=value, Type="String")

    @property
    def environment(self):
        there = {f"AWS_ENDPOINT_URL_{service}": self.embedded.endpoint for service in EMBEDDED}
        return {**support.ENVIRONMENT, **TIMES, "AWS_ENDPOINT_URL": self.aws.endpoint, **there}

    def queue_url(self, name=QUEUE):
        return self.aws("sqs").get_queue_url(QueueName=name)["QueueUrl"]

    def depth(self, name=QUEUE):
        """How many messages are visible, and how many are not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.aws("sqs").get_queue_attributes(QueueUrl=self.queue_url(name), AttributeNames=names)
        return tuple(int(found["Attributes"][name]) for name in names)

    def configure(self, more="", name=QUEUE):
        """A configuration and a ledger of its own."""
        config = self.directory / f"config-{self.started}.toml"
        ledger = self.directory / f"ledger-{self.started}.db"
        config.write_text(f'[queue]\nurl = "{self.queue_url(name)}"\n[ledger]\npath = "{ledger}"\n{more}{support.TARGET}')
        return config

    @contextlib.contextmanager
    def daemon(self, config, **environment):
        self.started += 1
        log = self.directory / f"daemon-{self.started}.log"
        command = [support.BINARY, "run", "--config", config]
        with support.process(command, {**self.environment, **environment}, log) as child:
            daemon = Daemon(child, log)
            daemon.says("started")
            yield daemon

    def verb(self, config, *arguments, status=0):
        """What a verb writes with `--json`."""
        command = [support.BINARY, *arguments, "--config", config, "--json"]
        environment = self.environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=support.PATIENCE)
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    def deploy(self, service):
        """An execution of the pipeline, up to the approval; the staging distribution's id."""
        codepipeline, name = self.embedded("codepipeline"), parameter(service, "staging")
        codepipeline.start_pipeline_execution(name=service + PIPELINE)
        self.token(service)
        staging = self.embedded.parameter(name)
        self.aws("ssm").put_parameter(Name=name, Value=staging, Overwrite=True)
        return staging

    def token(self, service):
        """What the reviewer answers to."""
        codepipeline = self.embedded("codepipeline")

        def found():
            stages = codepipeline.get_pipeline_state(name=service + PIPELINE)["stageStates"]
            states = [it["actionStates"][0] for it in stages if it["stageName"] == "Approve"]
            return states[0].get("latestExecution", {}).get("token")

        return support.until(f"{service} waits at its approval", found)

    def reject(self, service, times=1):
        """Rejects the deployment, and puts the event on the default bus, as CodePipeline would; returns it."""
        self.embedded("codepipeline").put_approval_result(
            pipelineName=service + PIPELINE,
            stageName="Approve",
            actionName="Approve",
            token=self.token(service),
            result={"status": "Rejected", "summary": "no"},
        )
        event = self.embedded.rejection()
        self.send(event, times)
        return event

    def send(self, event, times=1):
        for _ in range(times):
            support.put_event(self.aws("events"), event)

    def values(self, service):
        """What the staging parameter held, in order."""
        history = self.aws("ssm").get_parameter_history(Name=parameter(service, "staging"))["Parameters"]
        return [it["Value"] for it in sorted(history, key=lambda it: it["Version"])]

    def left(self, service, staging):
        """What is left of a deployment: its distribution, and production's policy."""
        production = self.aws("ssm").get_parameter(Name=parameter(service, "production"))["Parameter"]["Value"]
        there = [it for it, _ in self.embedded.distributions()]
        assert production in there, "production is gone"
        policy = self.setting(production, "ContinuousDeploymentPolicyId")
        return [it for it in (staging,) if it in there] + [it for it in (policy,) if it]

    def setting(self, distribution, name):
        return self.embedded("cloudfront").get_distribution_config(Id=distribution)["DistributionConfig"][name]

    def settled(self, staging):
        """Waits until the queue is empty and these deployments, by service, are gone, each name withdrawn once."""

        def is_settled():
            return self.depth() == (0, 0) and not any(self.left(*it) for it in staging.items())

        def state():
            logs = [path.read_text() for path in sorted(self.directory.glob("daemon-*.log"))[-2:]]
            left = {service: (self.left(service, it), self.values(service)) for service, it in staging.items()}
            return "\n".join([f"settled: {self.depth()} {left}", *logs])

        support.until(state, is_settled)
        for service, it in staging.items():
            assert self.values(service)[-2:] == [it, "deleted"], self.values(service)


def parameter(service, which):
    return f"/{service}/cloudfront/cfcd-{which}"
