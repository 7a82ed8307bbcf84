// Grows tables until that is denied, then never stops asking. A table's slots are host memory, so a
// limit on linear memory alone would not stop this.
#include "http.h"

// Two, because a limit on each table would let the second begin where the first had to stop.
static __externref_t first[0];
static __externref_t second[0];

enum { STEP_SLOTS = 4096 };

void exports_wasi_http_incoming_handler_handle(request_t request, outparam_t out) {
  if (!is_go(request)) {
    answer(out, "hostile-tables: GET /go grows two tables, and keeps asking for ever once denied.\n");
    return;
  }
  for (;;) {
    __builtin_wasm_table_grow(first, __builtin_wasm_ref_null_extern(), STEP_SLOTS);
    __builtin_wasm_table_grow(second, __builtin_wasm_ref_null_extern(), STEP_SLOTS);
  }
}
