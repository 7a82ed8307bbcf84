# An HTTP handler in Python. Its module `wit_world` is made from wit/ while it is built; for an
# editor's sake, `.venv/bin/componentize-py -d wit -w hello bindings .` writes it here.

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    Method_Post,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)
from wit_world.imports.streams import StreamError_Closed

WRITE_BYTES_MAX = 4096


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        if request.path_with_query() == "/echo" and request.method() == Method_Post():
            respond(response_out, read(request))
        else:
            respond(response_out, b"Hello from Insula!\n")


def read(request: IncomingRequest) -> bytes:
    """The request's body, whole."""
    chunks = []
    with request.consume() as body, body.stream() as stream:
        try:
            while True:
                chunks.append(stream.blocking_read(64 << 10))
        except Err as end:
            if not isinstance(end.value, StreamError_Closed):
                raise
    return b"".join(chunks)


def respond(out: ResponseOutparam, contents: bytes) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    with body.write() as stream:
        for at in range(0, len(contents), WRITE_BYTES_MAX):
            stream.blocking_write_and_flush(contents[at : at + WRITE_BYTES_MAX])
    OutgoingBody.finish(body, None)
