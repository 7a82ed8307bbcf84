// A CGI program in plain C: the request is in the environment and on standard input, the answer goes
// to standard output, as with any web server of the last thirty years. Built for WASI preview 1.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *variable(const char *name) {
  const char *value = getenv(name);
  return value ? value : "";
}

// Counts what is posted, like wc, without ever holding more than a piece of it.
static void count_body(void) {
  static char piece[16384];
  size_t read, bytes = 0, lines = 0;
  while ((read = fread(piece, 1, sizeof piece, stdin)) > 0) {
    bytes += read;
    for (const char *at = piece; (at = memchr(at, '\n', piece + read - at)); at++)
      lines++;
  }
  printf("Content-Type: text/plain\n\n%zu bytes, %zu lines\n", bytes, lines);
}

int main(void) {
  const char *method = variable("REQUEST_METHOD");
  if (strcmp(method, "POST") == 0) {
    count_body();
  } else if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0) {
    printf("Content-Type: text/plain\n\nHello from CGI!\n");
    printf("script: %s\npath: %s\nquery: %s\n", variable("SCRIPT_NAME"), variable("PATH_INFO"),
           variable("QUERY_STRING"));
    printf("you: %s, with %s\n", variable("REMOTE_ADDR"), variable("HTTP_USER_AGENT"));
  } else {
    fprintf(stderr, "nobody told me about %s\n", method); // goes to the tenant's log
    printf("Status: 405 Method Not Allowed\nAllow: GET, HEAD, POST\n\n");
  }
  return 0;
}
