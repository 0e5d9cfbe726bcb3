"""SQS without an SDK: requests to the embedded AWS, and a queue that is always empty."""

import http.client
import json
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit


class Queue:
    """One queue of the embedded AWS, which checks no signatures."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, operation: str, **parameters: object) -> dict:
        headers = {
            "content-type": "application/x-amz-json-1.0",
            "x-amz-target": f"AmazonSQS.{operation}",
        }
        body = json.dumps({"QueueUrl": self.url} | parameters)
        self.connection.request("POST", "/", body, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{operation}: {answer.status} {text.decode()}")
        return json.loads(text)

    def depth(self) -> tuple[int, int]:
        """Messages that can be received, and messages that were."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        attributes = self.call("GetQueueAttributes", AttributeNames=names)["Attributes"]
        visible, in_flight = (int(attributes[name]) for name in names)
        return visible, in_flight

    def bodies(self) -> list[str]:
        """The bodies of all messages, which stay on the queue."""
        found = {}
        received = None
        while received != []:
            reply = self.call("ReceiveMessage", MaxNumberOfMessages=10, VisibilityTimeout=1)
            received = reply.get("Messages", [])
            found |= {message["MessageId"]: message["Body"] for message in received}
        return list(found.values())

    def send(self, bodies: list[str]) -> None:
        for first in range(0, len(bodies), 10):
            entries = [
                {"Id": str(index), "MessageBody": body}
                for index, body in enumerate(bodies[first : first + 10])
            ]
            sent = self.call("SendMessageBatch", Entries=entries)
            assert "Failed" not in sent, sent


class EmptyQueue(socketserver.ThreadingTCPServer):
    """Answers long polls with nothing when their time is up, and remembers when each call came."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.calls: list[tuple[float, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        host, port = self.server_address
        return f"http://{host}:{port}"

    def first(self, operation: str) -> float | None:
        return next((at for at, called in list(self.calls) if called == operation), None)

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        operation = self.headers["x-amz-target"].rpartition(".")[2]
        self.server.calls.append((time.monotonic(), operation))
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = {}
        if operation == "GetQueueAttributes":
            answer = {"Attributes": {"ApproximateNumberOfMessages": "0"}}
        if operation == "ReceiveMessage":
            time.sleep(request["WaitTimeSeconds"])
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/x-amz-json-1.0")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
            self.wfile.flush()
        except OSError:
            # It has gone, as one does that is asked to stop in a long poll.
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
