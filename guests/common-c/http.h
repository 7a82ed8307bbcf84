// What the C guests share: reading the request's path, and answering with a text.
#ifndef INSULA_GUESTS_HTTP_H
#define INSULA_GUESTS_HTTP_H

#include "proxy.h"

typedef exports_wasi_http_incoming_handler_own_incoming_request_t request_t;
typedef exports_wasi_http_incoming_handler_own_response_outparam_t outparam_t;

// Whether the request's path ends in `suffix`. Only its end is compared, because the tenant may be
// routed under a prefix.
bool path_ends(request_t request, const char *suffix);

// Writes a number and a final zero, and returns where that zero is. Written by hand, because printf
// would import half of WASI.
char *put_number(char *at, size_t number, unsigned base);

// Answers 200 with a short text.
void answer(outparam_t out, const char *text);

#endif
