#include "http.h"
#include <string.h>

bool path_ends(request_t request, const char *suffix) {
  proxy_string_t target;
  if (!wasi_http_types_method_incoming_request_path_with_query(
          wasi_http_types_borrow_incoming_request(request), &target))
    return false;
  const uint8_t *query = memchr(target.ptr, '?', target.len);
  size_t path = query ? (size_t)(query - target.ptr) : target.len;
  size_t end = strlen(suffix);
  bool ends = path >= end && memcmp(target.ptr + path - end, suffix, end) == 0;
  proxy_string_free(&target);
  return ends;
}

char *put_number(char *at, size_t number, unsigned base) {
  if (number >= base)
    at = put_number(at, number / base, base);
  *at++ = "0123456789abcdef"[number % base];
  *at = 0;
  return at;
}

void answer(outparam_t out, const char *text) {
  wasi_http_types_own_outgoing_response_t response =
      wasi_http_types_constructor_outgoing_response(wasi_http_types_constructor_fields());
  wasi_http_types_own_outgoing_body_t body;
  wasi_http_types_method_outgoing_response_body(wasi_http_types_borrow_outgoing_response(response), &body);
  wasi_http_types_own_output_stream_t stream;
  wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &stream);

  wasi_http_types_result_own_outgoing_response_error_code_t ok = {.is_err = false, .val.ok = response};
  wasi_http_types_static_response_outparam_set(out, &ok);

  // A client that has gone away is no reason to trap, so errors are let go.
  proxy_list_u8_t contents = {(uint8_t *)text, strlen(text)};
  wasi_io_streams_stream_error_t error;
  wasi_io_streams_method_output_stream_blocking_write_and_flush(
      wasi_io_streams_borrow_output_stream(stream), &contents, &error);
  wasi_io_streams_output_stream_drop_own(stream);
  wasi_http_types_error_code_t finish_error;
  wasi_http_types_static_outgoing_body_finish(body, NULL, &finish_error);
}
