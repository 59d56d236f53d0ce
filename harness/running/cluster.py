"""Joins a Ray cluster as the program that hands out its work, and leaves it again."""

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

from harness.plan.errors import PlanError
from harness.plan.text import printable, shown

# Ray asks twenty times, with seconds in between, before it says that nobody answers or that it is not let in.
_PATIENCE = {
    "RAY_NUM_REDIS_GET_RETRIES": "2",
    "RAY_gcs_rpc_server_connect_timeout_s": "3",
    "RAY_py_gcs_connect_timeout_s": "5",
}
_NOTHING_SENT = {"RAY_USAGE_STATS_ENABLED": "0"}
_ANSWER_S = 10.0
_HERE = "auto"  # Ray's word for the cluster that this machine is of


@contextlib.contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Belong to a cluster as long as this lasts: the one at `host:port`, or None for the one that this machine is of.

    Raises PlanError, in one line, where there is no Ray, no cluster, or one that does not let this program in.
    """
    named = address or os.environ.get("RAY_ADDRESS") or _HERE
    if named != _HERE and not re.fullmatch(r"[^/\s]+:[0-9]{1,5}", named):
        raise PlanError(f"--address {shown(named)}: name the head of a Ray cluster as host:port, such as 10.0.0.1:6379")
    ray = _ray()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _check_answers(named)
        with _quiet():
            ray.init(address=named, log_to_driver=False, logging_level=logging.CRITICAL)
    except SystemExit as ended:  # Ray has taken SIGTERM for itself
        raise KeyboardInterrupt from ended
    except Exception as error:  # Ray raises what it pleases
        raise PlanError(_refusal(ray, named, error)) from error
    finally:
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> ModuleType:
    for name, value in {**_PATIENCE, **_NOTHING_SENT}.items():  # read when Ray is imported
        os.environ.setdefault(name, value)
    try:
        with _quiet():
            import ray
    except ImportError as error:
        raise PlanError("--on ray needs Ray: pip install -e '.[ray]'") from error
    module: ModuleType = ray
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let nobody hear what Ray writes to stderr, past Python as well; what matters of it is in its exceptions."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_answers(named: str) -> None:
    """Raise OSError where nobody listens at an address: Ray would try for more than a minute."""
    host, colon, port = named.rpartition(":")
    if colon:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
            pass


def _refusal(ray: ModuleType, named: str, error: BaseException) -> str:
    """Say in one line why a cluster was not joined, and what to do."""
    reasons = [error]
    while (cause := reasons[-1].__cause__ or reasons[-1].__context__) is not None and cause not in reasons:
        reasons.append(cause)
    text = next((told for told in (" ".join(str(each).split()) for each in reasons) if told), type(error).__name__)
    if any(_is_about_token(ray, each) for each in reasons):
        return (
            f"the Ray cluster at {printable(named, 100)} does not let this program in: set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to its token"
        )
    if named == _HERE:
        return f"this machine is of no Ray cluster: `ray start --head` begins one, or name one with --address ({text})"
    return f"--address {printable(named, 100)}: no Ray cluster can be joined there: {printable(text, 300)}"


def _is_about_token(ray: ModuleType, error: BaseException) -> bool:
    refused = getattr(ray.exceptions, "AuthenticationError", ())
    return isinstance(error, refused) or "authentication token" in str(error).lower()
