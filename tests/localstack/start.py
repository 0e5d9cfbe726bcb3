"""Starts LocalStack on 127.0.0.1 alone, with moto's DynamoDB: LocalStack's own is a Java program that it downloads."""

import sys
import types

# For rules with a schedule; of this one there is only the source.
sys.modules["crontab"] = types.ModuleType("crontab")
sys.modules["crontab"].CronTab = None

from localstack.aws.api.dynamodb import DynamodbApi  # noqa: E402
from localstack.runtime.main import main  # noqa: E402
from localstack.services import providers  # noqa: E402
from localstack.services.moto import MotoFallbackDispatcher  # noqa: E402
from localstack.services.plugins import Service, aws_provider  # noqa: E402
from twisted.internet.endpoints import TCP4ServerEndpoint  # noqa: E402


@aws_provider()
def dynamodb():
    return Service.for_provider(DynamodbApi(), dispatch_table_factory=MotoFallbackDispatcher)


providers.dynamodb = dynamodb
# Whatever GATEWAY_LISTEN says, its server listens everywhere.
TCP4ServerEndpoint.__init__.__defaults__ = (50, "127.0.0.1")

main()
