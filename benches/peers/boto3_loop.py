"""A boto3 loop: receives by tens and deletes by tens. Nothing is done with a message.

usage: boto3_loop.py THREADS, with AWS_* and QUEUE_URL set.
"""

import os
import signal
import sys
import threading

import boto3


def loop(client, queue_url: str) -> None:
    while True:
        reply = client.receive_message(
            QueueUrl=queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=20,
            VisibilityTimeout=120,
        )
        messages = reply.get("Messages", [])
        if not messages:
            continue
        entries = [
            {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
            for index, message in enumerate(messages)
        ]
        deleted = client.delete_message_batch(QueueUrl=queue_url, Entries=entries)
        if deleted.get("Failed"):
            sys.exit(f"not deleted: {deleted['Failed']}")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threads = int(sys.argv[1])
    client = boto3.client("sqs")
    for _ in range(threads):
        target = threading.Thread(target=loop, args=(client, os.environ["QUEUE_URL"]), daemon=True)
        target.start()
    signal.pause()


if __name__ == "__main__":
    main()
