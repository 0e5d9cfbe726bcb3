"""What the server gives: requests are written to sockets as they are, answers are searched for
receipt handles, and nothing is parsed, signed or checked.

usage: bare.py CONNECTIONS, with QUEUE_URL set.
"""

import os
import re
import selectors
import signal
import socket
import sys
from urllib.parse import urlsplit

HANDLE = re.compile(rb'"ReceiptHandle":"([^"]+)"')
LENGTH = re.compile(rb"(?i)content-length: *([0-9]+)\r\n")
HEAD = (
    "POST / HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/x-amz-json-1.0\r\n"
    "x-amz-target: AmazonSQS.{operation}\r\ncontent-length: {length}\r\n\r\n"
)


def request(host: str, operation: str, body: str) -> bytes:
    return (HEAD.format(host=host, operation=operation, length=len(body)) + body).encode()


class Connection:
    """Receives, deletes what it received, receives again."""

    def __init__(self, host: str, port: int, queue_url: str) -> None:
        self.host = f"{host}:{port}"
        self.queue_url = queue_url
        self.receive = request(
            self.host,
            "ReceiveMessage",
            f'{{"QueueUrl":"{queue_url}","MaxNumberOfMessages":10,"WaitTimeSeconds":20,'
            '"VisibilityTimeout":120}',
        )
        self.answer = b""
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(self.receive)

    def readable(self) -> None:
        chunk = self.socket.recv(262_144)
        if not chunk:
            sys.exit("the server closed the connection")
        self.answer += chunk
        head, found, body = self.answer.partition(b"\r\n\r\n")
        if not found:
            return
        length = LENGTH.search(head + b"\r\n")
        if length is None or len(body) < int(length[1]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(self.answer.decode())
        self.answer = b""
        handles = HANDLE.findall(body)
        self.socket.sendall(self.delete(handles) if handles else self.receive)

    def delete(self, handles: list[bytes]) -> bytes:
        entries = ",".join(
            f'{{"Id":"{index}","ReceiptHandle":"{handle.decode()}"}}'
            for index, handle in enumerate(handles)
        )
        body = f'{{"QueueUrl":"{self.queue_url}","Entries":[{entries}]}}'
        return request(self.host, "DeleteMessageBatch", body)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    queue_url = os.environ["QUEUE_URL"]
    address = urlsplit(queue_url)
    selector = selectors.DefaultSelector()
    for _ in range(int(sys.argv[1])):
        connection = Connection(address.hostname, address.port, queue_url)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    while True:
        for key, _ in selector.select():
            key.data.readable()


if __name__ == "__main__":
    main()
