/** HTTP with registries and their token services: redirects, stalls and endless answers under control. */
import { TinderboxError } from "../base/errors.ts";

/** A fault that may be gone when the same is asked again. */
export class PassingFault extends TinderboxError {
  /** When the other side wants to be asked again, `ms` from now */
  readonly retryAfterMs: number | undefined;

  constructor(message: string, options: { readonly cause?: unknown; readonly retryAfterMs?: number } = {}) {
    super("REGISTRY", message, options);
    this.retryAfterMs = options.retryAfterMs;
  }
}

export type HttpOptions = {
  readonly signal: AbortSignal;
  /** A server that sends nothing for this long is given up */
  readonly stallMs: number;
  readonly method?: "GET" | "POST";
  readonly body?: URLSearchParams;
};

const maxRedirects = 5;
const redirects = new Set([301, 302, 303, 307, 308]);

function reasonOf(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  return cause.cause instanceof Error ? cause.cause.message || String(cause.cause) : cause.message;
}

async function oneRequest(
  url: URL,
  headers: Record<string, string>,
  options: HttpOptions,
): Promise<Response> {
  const { signal, stallMs, method, body } = options;
  const stalled = new AbortController();
  // For the head only: the body has its own.
  const timer = setTimeout(() => stalled.abort(), stallMs);
  try {
    return await fetch(url, {
      headers,
      redirect: "manual",
      signal: AbortSignal.any([signal, stalled.signal]),
      ...(method && { method }),
      ...(body && { body }),
    });
  } catch (cause) {
    signal.throwIfAborted();
    const why = stalled.signal.aborted ? `no answer for ${stallMs / 1000} s` : reasonOf(cause);
    throw new PassingFault(`${url.origin}: ${why}`, { cause });
  } finally {
    clearTimeout(timer);
  }
}

/**
 * The head of the answer, after redirects; its body is still to be read. Authorization goes to the first host only, and
 * never from https to http. @throws REGISTRY
 */
export async function request(
  from: string,
  headers: Readonly<Record<string, string>>,
  options: HttpOptions,
): Promise<Response> {
  let url = new URL(from);
  // As stored: an encoding on the way would not have the digest, nor could it be resumed.
  let sent: Record<string, string> = { ...headers, "accept-encoding": "identity" };
  for (let hops = 0; ; hops++) {
    const response = await oneRequest(url, sent, options);
    const location = response.headers.get("location");
    if (!redirects.has(response.status) || location === null || options.method === "POST") return response;
    await response.body?.cancel();
    const next = URL.parse(location, url.href);
    const isAllowed = next?.protocol === "https:" || (next?.protocol === "http:" && url.protocol === "http:");
    if (next === null || !isAllowed || hops >= maxRedirects)
      throw new TinderboxError(
        "REGISTRY",
        `${url.origin} redirects ${hops >= maxRedirects ? `more than ${maxRedirects} times` : `to ${quote(location)}`}`,
      );
    if (next.origin !== url.origin) {
      const { authorization: _, ...others } = sent;
      sent = others;
    }
    url = next;
  }
}

/** The body as it comes; a side that stalls or cuts it is a PassingFault. */
export async function* bodyOf(response: Response, options: HttpOptions): AsyncGenerator<Uint8Array> {
  if (!response.body) return;
  const { signal, stallMs } = options;
  const reader = response.body.getReader();
  try {
    for (;;) {
      let timer: NodeJS.Timeout | undefined;
      const stalled = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new PassingFault(`no byte for ${stallMs / 1000} s`)), stallMs);
      });
      let part: Awaited<ReturnType<typeof reader.read>>;
      try {
        part = await Promise.race([reader.read(), stalled]);
      } catch (cause) {
        signal.throwIfAborted();
        if (cause instanceof TinderboxError) throw cause;
        throw new PassingFault(`the connection broke: ${reasonOf(cause)}`, { cause });
      } finally {
        clearTimeout(timer);
      }
      if (part.done) return;
      yield part.value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** The first `max` bytes of the body; what is beyond is not read. */
export async function beginningOf(response: Response, max: number, options: HttpOptions): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of bodyOf(response, options)) {
    parts.push(part);
    size += part.length;
    if (size >= max) break;
  }
  return Buffer.concat(parts).subarray(0, max);
}

/** Text that a stranger sent, made safe for a message. */
export function quote(text: string): string {
  return JSON.stringify(text.slice(0, 200));
}

/** Retry-After in ms: seconds, or a date. */
export function retryAfterOf(response: Response): number | undefined {
  const text = response.headers.get("retry-after") ?? "";
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isFinite(ms) && ms > 0 ? ms : undefined;
}

/** Waits between two tries; a registry gives no event to wait for. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(TinderboxError.from(signal.reason, "ABORTED"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal.addEventListener("abort", onAbort, { once: true });
  });
}
