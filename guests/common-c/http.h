// What the C guests share: reading the request's path and answering with a text.
#ifndef INSULA_GUESTS_HTTP_H
#define INSULA_GUESTS_HTTP_H

#include "proxy.h"

typedef exports_wasi_http_incoming_handler_own_incoming_request_t request_t;
typedef exports_wasi_http_incoming_handler_own_response_outparam_t outparam_t;

// Whether the path ends in `/go`: the request that a hostile guest misbehaves at. Only its end is
// compared, because the tenant may be routed under a prefix.
bool is_go(request_t request);

// Answers 200 with a short text.
void answer(outparam_t out, const char *text);

#endif
