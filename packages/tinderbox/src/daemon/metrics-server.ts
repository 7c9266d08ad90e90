/** HTTP for operators, on a private unix socket or on loopback: /metrics, /healthz (it runs), /readyz (it can take pods). */
import { createServer, type ServerResponse } from "node:http";
import { TinderboxError } from "../base/errors.ts";
import type { Engine } from "../engine/contract.ts";
import type { DaemonMetrics } from "./metrics.ts";
import { prepareSocketPath, withPrivateSocket } from "./socket-path.ts";

/** A scraper that sends no request, or does not read its answer, is given up. */
const requestTimeoutMs = 10_000;

function answer(response: ServerResponse, status: number, text: string, contentType = "text/plain"): void {
  response.writeHead(status, { "Content-Type": contentType, "Content-Length": Buffer.byteLength(text) });
  response.end(text);
}

async function serve(
  path: string,
  response: ServerResponse,
  engine: Engine,
  metrics: DaemonMetrics,
): Promise<void> {
  if (path === "/healthz") return answer(response, 200, "ok\n");
  if (path === "/readyz") {
    const { isReady, message } = await engine.networkStatus();
    return answer(response, isReady ? 200 : 503, isReady ? "ok\n" : `network: ${message}\n`);
  }
  if (path === "/metrics") {
    const { text, contentType } = await metrics.scrape();
    return answer(response, 200, text, contentType);
  }
  answer(response, 404, "not found; /metrics, /healthz and /readyz are here\n");
}

/** Listens at `listen`: an absolute path, or HOST:PORT of loopback. */
export async function startMetricsServer(
  listen: string,
  engine: Engine,
  metrics: DaemonMetrics,
): Promise<AsyncDisposable> {
  const server = createServer((request, response) => {
    if (request.method !== "GET" && request.method !== "HEAD") return answer(response, 405, "GET only\n");
    serve(request.url ?? "/", response, engine, metrics).catch((cause) =>
      answer(response, 500, `${TinderboxError.from(cause).message}\n`),
    );
  });
  server.requestTimeout = requestTimeoutMs;
  server.headersTimeout = requestTimeoutMs;
  server.timeout = requestTimeoutMs;
  server.maxConnections = 32;
  const listening = (start: () => void): Promise<void> =>
    new Promise((resolve, reject) => {
      server.once("error", (cause) =>
        reject(new TinderboxError("UNAVAILABLE", `metrics.listen ${listen}: ${cause.message}`, { cause })),
      );
      server.once("listening", resolve);
      start();
    });
  if (listen.startsWith("/")) {
    await prepareSocketPath(listen);
    await withPrivateSocket(listen, () => listening(() => server.listen(listen)));
  } else {
    const colon = listen.lastIndexOf(":");
    const host = listen.slice(0, colon).replace(/^\[|\]$/g, "");
    await listening(() => server.listen(Number(listen.slice(colon + 1)), host));
  }
  return {
    [Symbol.asyncDispose]: async () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
