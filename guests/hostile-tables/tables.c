// Grows tables until that is denied. A table's slots are host memory, so a limit on linear memory
// alone would not stop this.
#include "http.h"
#include <string.h>

extern int grow_first(int slots);
extern int grow_second(int slots);

enum { STEP_SLOTS = 1024 };

static const char ABOUT[] = "hostile-tables: GET /go grows two tables, and keeps asking for ever once denied; "
                            "/tell asks until denied, and answers how far it came.\n";

static bool grow(void) {
  bool grew_first = grow_first(STEP_SLOTS) >= 0;
  bool grew_second = grow_second(STEP_SLOTS) >= 0;
  return grew_first || grew_second;
}

static void tell(outparam_t out) {
  while (grow()) {
  }
  // Growing by nothing is never denied, and tells the size.
  char text[64];
  char *end = put_number(stpcpy(text, "denied at "), (size_t)grow_first(0), 10);
  end = put_number(stpcpy(end, " and "), (size_t)grow_second(0), 10);
  strcpy(end, " slots\n");
  answer(out, text);
}

void exports_wasi_http_incoming_handler_handle(request_t request, outparam_t out) {
  if (path_ends(request, "/tell"))
    return tell(out);
  if (!path_ends(request, "/go"))
    return answer(out, ABOUT);
  for (;;)
    grow();
}
