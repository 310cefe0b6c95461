"""What every caller of the broker needs: a channel, and an error that says what google.rpc's details say."""

import pathlib
import urllib.parse

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

CALL_TIMEOUT_S = 30


class CallRefused(Exception):
    """A gRPC status with its stable reason, such as SIGNATURE_INVALID."""

    def __init__(self, error):
        self.code = error.code()
        self.reason, self.metadata, self.fields, self.retry_after_s = "", {}, [], None
        self.trailers = dict(error.trailing_metadata() or ())
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            for kind in error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo:
                message = kind()
                if detail.Unpack(message):
                    self._read(message)
        super().__init__(f"{self.code.name} {self.reason} {self.fields or ''}: {error.details()}")

    def _read(self, message):
        if isinstance(message, error_details_pb2.ErrorInfo):
            assert message.domain == "countersign", message.domain
            self.reason, self.metadata = message.reason, dict(message.metadata)
        elif isinstance(message, error_details_pb2.BadRequest):
            self.fields = [violation.field for violation in message.field_violations]
        else:
            self.retry_after_s = message.retry_delay.ToTimedelta().total_seconds()


def channel(address, ca_file=None):
    """To an http:// or https:// URL. A CA file replaces the certificates that the machine trusts."""
    url = urllib.parse.urlsplit(address)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    if url.scheme == "http":
        return grpc.insecure_channel(f"{host}:{url.port or 80}")
    if url.scheme != "https":
        raise ValueError(f"neither http nor https: {address}")
    target = f"{host}:{url.port or 443}"
    roots = pathlib.Path(ca_file).read_bytes() if ca_file else None
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(root_certificates=roots))


def call(method, request, metadata=(), timeout_s=CALL_TIMEOUT_S):
    try:
        return method(request, metadata=metadata, timeout=timeout_s)
    except grpc.RpcError as error:
        raise CallRefused(error) from error


def stream(method, request, metadata=(), timeout_s=CALL_TIMEOUT_S):
    """The messages as they come. Closing the generator hangs up."""
    messages = method(request, metadata=metadata, timeout=timeout_s)
    try:
        yield from messages
    except grpc.RpcError as error:
        raise CallRefused(error) from error
    finally:
        messages.cancel()
