"""An S3 on the loopback, moto's, that counts what is put into it, and can be told to fail or to answer late."""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "results"


@dataclass
class Put:
    """One request that puts an object. status: as it was answered, or will be; 0 while it is not known."""

    key: str
    only_new: bool
    status: int = 0
    answered: bool = False


@dataclass
class Server:
    """moto between two ears.

    busy: so many requests to put an object are refused for now. forbids: they are refused for good. late_s: a record is
    there so long before its request is answered.
    """

    puts: list[Put] = field(default_factory=list)
    busy: int = 0
    forbids: bool = False
    late_s: float = 0.01
    url: str = ""

    def __post_init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def under(self, prefix: str) -> list[Put]:
        with self._lock:
            return [put for put in self.puts if put.key.startswith(prefix + "/")]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        _bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
        if environ["REQUEST_METHOD"] != "PUT" or not key:
            return self._app(environ, start_response)
        put = Put(key, environ.get("HTTP_IF_NONE_MATCH") == "*")
        with self._lock:
            self.puts.append(put)
            busy, self.busy = self.busy > 0, max(0, self.busy - 1)
        if busy or self.forbids:
            put.status, put.answered = 503 if busy else 403, True
            code = "SlowDown" if busy else "AccessDenied"
            start_response(f"{put.status} {code}", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>Not now.</Message></Error>".encode()]

        def started(status: str, headers: Any, *more: Any) -> Any:
            put.status = int(status.split()[0])
            return start_response(status, headers, *more)

        answer = list(self._app(environ, started))
        if "/records/" in key:
            time.sleep(self.late_s)
        put.answered = True
        return answer
