// Looks for anything that an earlier request left behind, then leaves as much as it can for the next.
//
// Answers `clean`, or `DIRTY` and where. In a fresh instance for every request nothing may ever be
// found; with `reuse` in the manifest the second request must find something, which shows that the
// search works.
#include "http.h"
#include <string.h>

extern int counter_get(void);
extern void counter_set(int value);
extern int slots_size(void);
extern int slots_add(int (*function)(void), int count);
extern void redirect(int (*from)(void), int (*to)(void));

// Set by the linker: where the program's data ends, and the memory that it starts with.
extern uint8_t __heap_base[], __heap_end[];

enum {
  PAGE = 64 * 1024,
  STATIC_BYTES = 1 << 20,
  // Beyond what a host may keep resident and clear by hand, so that both of its ways are tried.
  GROWN_PAGES = 64,
  // Every second host page: many small dirty regions, more than one kernel call reports.
  STRIDE = 8192,
};

#define MARKER UINT64_C(0x5EC2E7D1275EC2E7)

static uint8_t block[STATIC_BYTES] __attribute__((aligned(16)));
static volatile uint32_t initialised = 0x1234;

static int zero(void) { return 0; }
static int one(void) { return 1; }
static int (*volatile slot_zero)(void) = zero;
static int (*volatile slot_one)(void) = one;

// Only the first finding counts.
static char report[96] = "";
static void found(const char *what, size_t where) {
  if (report[0] != 0)
    return;
  char *end = stpcpy(stpcpy(stpcpy(report, "DIRTY "), what), " at 0x");
  strcpy(put_number(end, where, 16), "\n");
}

static void expect_zero(const char *what, const uint8_t *from, const uint8_t *to) {
  for (const uint8_t *at = from; at + 8 <= to; at += 8)
    if (*(const volatile uint64_t *)at != 0)
      return found(what, (size_t)at);
}

static void inspect(void) {
  // The stack lies below the data and is in use, so there only the marker tells.
  const uint8_t *own_frame = __builtin_frame_address(0);
  for (const uint8_t *at = (const uint8_t *)8; at + 1024 < own_frame; at += 8)
    if (*(const volatile uint64_t *)at == MARKER)
      found("stack", (size_t)at);
  if (initialised != 0x1234)
    found("data", (size_t)&initialised);
  expect_zero("static block", block, block + STATIC_BYTES);
  expect_zero("heap", __heap_base, __heap_end);
  if (__builtin_wasm_memory_size(0) * PAGE != (size_t)__heap_end)
    found("memory size", __builtin_wasm_memory_size(0) * PAGE);
  if (counter_get() != 0)
    found("global", (size_t)counter_get());
  if (slots_size() != 0)
    found("table", (size_t)slots_size());
  if (slot_zero() != 0)
    found("table slot", (size_t)slot_zero);
}

static void fill(uint8_t *from, size_t bytes, size_t stride) {
  for (size_t at = 0; at + 8 <= bytes; at += stride)
    *(volatile uint64_t *)(from + at) = MARKER;
}

// Grown memory must be zero too, whatever an earlier instance kept there.
static void grow_and_soil(void) {
  size_t first_page = __builtin_wasm_memory_grow(0, GROWN_PAGES);
  if (first_page == SIZE_MAX)
    return found("memory: no room to grow", 0);
  uint8_t *grown = (uint8_t *)(first_page * PAGE);
  expect_zero("grown memory", grown, grown + GROWN_PAGES * PAGE);
  fill(grown, GROWN_PAGES * PAGE, STRIDE);
}

static void soil(void) {
  uint8_t frame[16 * 1024];
  fill(frame, sizeof frame, 8);
  fill(block, STATIC_BYTES, 8);
  initialised = 0xdead;
  counter_set(1);
  slots_add(slot_one, 16);
  redirect(slot_zero, slot_one);
}

void exports_wasi_http_incoming_handler_handle(request_t request, outparam_t out) {
  (void)request;
  inspect();
  grow_and_soil();
  soil();
  answer(out, report[0] ? report : "clean\n");
}
