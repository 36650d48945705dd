// Keeps the page itself, so that it opens offline. The model and the runtime are kept by retort.js, by their versions.

const VERSION = "@VERSION@"; // written by `python -m service edge`
const FILES = ["./", "index.html", "demo.css", "demo.js", "retort.js", "edge.json", "runtime/ort.wasm.bundle.min.mjs"];
const PREFIX = `retort-page ${self.registration.scope} `;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(PREFIX + VERSION)
      .then((cache) => cache.addAll(FILES.map((name) => new Request(name, { cache: "reload" }))))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => names.filter((name) => name.startsWith(PREFIX) && name !== PREFIX + VERSION))
      .then((names) => Promise.all(names.map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith(
    caches
      .open(PREFIX + VERSION)
      .then((cache) => cache.match(event.request, { ignoreSearch: true }))
      .then((kept) => kept ?? fetch(event.request)),
  );
});
