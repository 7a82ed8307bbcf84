// `hello` in plain C. proxy.h is generated from WASI's own interface definitions when this is built
// (by wit-bindgen; see ../build.sh), and shows every call there is.
#include "proxy.h"
#include <string.h>

static const char GREETING[] = "Hello from Insula!\n";

static void append(wasi_http_types_borrow_fields_t headers, const char *name, const char *value) {
  proxy_string_t key;
  proxy_string_set(&key, name);
  wasi_http_types_field_value_t bytes = {(uint8_t *)value, strlen(value)};
  wasi_http_types_header_error_t error;
  wasi_http_types_method_fields_append(headers, &key, &bytes, &error);
}

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t out) {
  wasi_http_types_incoming_request_drop_own(request);

  wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
  append(wasi_http_types_borrow_fields(headers), "content-type", "text/plain");
  append(wasi_http_types_borrow_fields(headers), "content-length", "19");

  wasi_http_types_own_outgoing_response_t response = wasi_http_types_constructor_outgoing_response(headers);
  wasi_http_types_own_outgoing_body_t body;
  wasi_http_types_method_outgoing_response_body(wasi_http_types_borrow_outgoing_response(response), &body);
  wasi_http_types_own_output_stream_t stream;
  wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &stream);

  wasi_http_types_result_own_outgoing_response_error_code_t ok = {.is_err = false, .val.ok = response};
  wasi_http_types_static_response_outparam_set(out, &ok);

  proxy_list_u8_t contents = {(uint8_t *)GREETING, sizeof GREETING - 1};
  wasi_io_streams_stream_error_t error;
  // A client that has gone away is no reason to trap, so errors from here on are let go.
  wasi_io_streams_method_output_stream_blocking_write_and_flush(
      wasi_io_streams_borrow_output_stream(stream), &contents, &error);
  // The host refuses to finish a body whose stream is still open.
  wasi_io_streams_output_stream_drop_own(stream);
  wasi_http_types_error_code_t finish_error;
  wasi_http_types_static_outgoing_body_finish(body, NULL, &finish_error);
}
