"""A chat-completions server on loopback that misbehaves on command."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: The prompt of the request that shows whether the server is up.
TRIVIAL = "Say yes."


def completion(text="An answer.", reason="stop"):
    """The body of a good reply."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"object": "chat.completion", "choices": [choice]}


def prompt_of(body):
    """The text of a request."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


class Server(ThreadingHTTPServer):
    """Replies to a request with the next of `tricks`, then with `usual`, and to the trivial one with `alive`.

    A trick is a function of the handler and the body. `bodies` and `headers` are those received.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.tricks, self.usual, self.alive = deque(), reply(), reply()
        self.bodies, self.headers = [], []
        self.busy = self.most_busy = 0
        self.guard = threading.Lock()
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def prompts(self):
        """The prompts received, without the trivial ones."""
        return [prompt_of(body) for body in self.bodies if prompt_of(body) != TRIVIAL]

    def stop(self):
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Ignores clients that close the connection."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.guard:
            server.bodies.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            if prompt_of(body) == TRIVIAL:
                trick = server.alive
            else:
                trick = server.tricks.popleft() if server.tricks else server.usual
        try:
            trick(self, body)
        finally:
            with server.guard:
                server.busy -= 1

    def log_message(self, *_):
        """Logs nothing."""


def raw(data, *, status=200, **headers):
    """Any bytes with any status."""

    def trick(handler, body):
        handler.send_response(status)
        length = {"Content_Length": str(len(data))}
        for name, value in ({"Content_Type": "application/json"} | headers | length).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return trick


def reply(text="An answer.", reason="stop"):
    """A good reply."""
    return raw(json.dumps(completion(text, reason)).encode())


def echo(handler, body):
    """Answers with the prompt and the seed of the request."""
    reply(f"{prompt_of(body)} {body['seed']}")(handler, body)


def error(status, message="no", **headers):
    """An error in OpenAI's form."""
    return raw(json.dumps({"error": {"message": message}}).encode(), status=status, **headers)


def only_for(words, trick):
    """The trick for prompts that contain these words; all other requests are answered."""
    return lambda handler, body: (trick if words in prompt_of(body) else echo)(handler, body)


def reset(handler, body):
    """Resets the connection without a reply."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # close() is not enough, since the handler's files keep the connection open.
    socket.close(handler.connection.detach())


def hang(handler, body):
    """Takes the request and never replies."""
    handler.server.released.wait()
