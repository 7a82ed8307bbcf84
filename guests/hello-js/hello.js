// An HTTP handler in JavaScript, as service workers and edge runtimes have it: a `fetch` event for
// each request, answered with a `Response`. The engine is StarlingMonkey, which has the web's own
// `fetch`, `Request`, `Response`, `URL`, streams and timers.

addEventListener("fetch", (event) => event.respondWith(handle(event.request)));

async function handle(request) {
  const { pathname } = new URL(request.url);
  if (pathname === "/echo" && request.method === "POST") {
    return new Response(await request.text());
  }
  return new Response("Hello from Insula!\n", {
    headers: { "content-type": "text/plain" },
  });
}
