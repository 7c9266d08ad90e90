/** The client side of the OCI distribution protocol: manifests and blobs, verified while they stream. */
import { createHash } from "node:crypto";
import { createWriteStream } from "node:fs";
import { rm } from "node:fs/promises";
import { TinderboxError } from "../base/errors.ts";
import type { RegistryAuth } from "./contract.ts";
import type { Reference } from "./reference.ts";
import { authorize, type Challenge, parseChallenge } from "./registry-auth.ts";

export type Descriptor = { readonly mediaType: string; readonly digest: string; readonly size: number };

export const manifestTypes = [
  "application/vnd.oci.image.index.v1+json",
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
  "application/vnd.docker.distribution.manifest.v2+json",
];

const maxManifestBytes = 4 << 20;
const attempts = 4;
/** A registry that sends no byte for this long is given up. */
const stallMs = 30_000;

export type RegistryOptions = {
  readonly mirrors: readonly string[];
  readonly auth: RegistryAuth | undefined;
  readonly signal: AbortSignal;
};

function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$/.test(host);
}

/** Places that may have the repository, in the order in which they are asked. */
function endpoints(registry: string, mirrors: readonly string[]): { url: string; isMirror: boolean }[] {
  const host = registry === "docker.io" ? "registry-1.docker.io" : registry;
  const own = { url: `${isLoopback(registry) ? "http" : "https"}://${host}`, isMirror: false };
  return [...mirrors.map((mirror) => ({ url: mirror.replace(/\/+$/, ""), isMirror: true })), own];
}

/** Text that a registry sent, made safe for a message. */
function quote(text: string): string {
  return JSON.stringify(text.slice(0, 200));
}

export class RegistryClient {
  readonly #reference: Reference;
  readonly #options: RegistryOptions;
  /** Authorization header by endpoint */
  readonly #headers = new Map<string, string>();

  constructor(reference: Reference, options: RegistryOptions) {
    this.#reference = reference;
    this.#options = options;
  }

  /** A manifest by tag or digest, with its own digest; checked when a digest was asked for. */
  async manifest(which: string): Promise<{ bytes: Buffer; mediaType: string; digest: string }> {
    return this.#eachEndpoint(`manifest ${which}`, async (url) => {
      const response = await this.#request(url, `manifests/${which}`, { accept: manifestTypes.join(", ") });
      const parts: Uint8Array[] = [];
      let size = 0;
      for await (const chunk of this.#body(response)) {
        size += chunk.length;
        if (size > maxManifestBytes)
          throw new TinderboxError("IMAGE_MALFORMED", `manifest ${which} is over 4 MiB`);
        parts.push(chunk);
      }
      const bytes = Buffer.concat(parts);
      const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
      if (which.startsWith("sha") && !which.startsWith("sha512") && which !== digest) {
        throw new TinderboxError("IMAGE_DIGEST", `manifest ${which} has the digest ${digest}`);
      }
      const mediaType = response.headers.get("content-type")?.split(";")[0]?.trim() ?? "";
      return { bytes, mediaType, digest };
    });
  }

  /** Downloads a blob to `path`; goes on where a cut connection ended. The file is there only if digest and size are right. */
  async blob(descriptor: Descriptor, path: string, onBytes: (done: number) => void): Promise<void> {
    await this.#eachEndpoint(`blob ${descriptor.digest}`, async (url) => {
      try {
        await this.#download(url, descriptor, path, onBytes);
      } catch (cause) {
        await rm(path, { force: true });
        throw cause;
      }
    });
  }

  async #download(
    url: string,
    descriptor: Descriptor,
    path: string,
    onBytes: (done: number) => void,
  ): Promise<void> {
    const algorithm = descriptor.digest.split(":")[0] ?? "";
    let hash = createHash(algorithm);
    let done = 0;
    for (let attempt = 1; ; attempt++) {
      const file = createWriteStream(path, { flags: done > 0 ? "r+" : "w", start: done, mode: 0o600 });
      try {
        const headers: Record<string, string> = done > 0 ? { range: `bytes=${done}-` } : {};
        const response = await this.#request(url, `blobs/${descriptor.digest}`, headers);
        const resumed =
          response.status === 206 && response.headers.get("content-range")?.startsWith(`bytes ${done}-`);
        if (done > 0 && !resumed) {
          throw new TinderboxError("REGISTRY", `${url} cannot resume ${descriptor.digest}`);
        }
        for await (const chunk of this.#body(response)) {
          if (done + chunk.length > descriptor.size) {
            throw new TinderboxError(
              "IMAGE_DIGEST",
              `blob ${descriptor.digest} is longer than ${descriptor.size} bytes`,
            );
          }
          hash.update(chunk);
          done += chunk.length;
          if (!file.write(chunk)) await new Promise<void>((resolve) => file.once("drain", () => resolve()));
          onBytes(done);
        }
        if (done < descriptor.size)
          throw new TinderboxError("REGISTRY", `${url} ended ${descriptor.digest} at byte ${done}`);
        break;
      } catch (cause) {
        const error = TinderboxError.from(cause, "REGISTRY");
        if (this.#options.signal.aborted || error.code !== "REGISTRY" || attempt >= attempts) throw error;
        if (error.message.includes("cannot resume")) {
          done = 0;
          hash = createHash(algorithm);
        }
      } finally {
        await new Promise<void>((resolve) => void file.end(() => resolve()));
      }
    }
    const actual = `${algorithm}:${hash.digest("hex")}`;
    if (actual !== descriptor.digest) {
      throw new TinderboxError("IMAGE_DIGEST", `blob ${descriptor.digest} came with the digest ${actual}`);
    }
  }

  /** Tries mirrors, then the registry; the registry's own error is the one thrown. */
  async #eachEndpoint<T>(what: string, work: (url: string) => Promise<T>): Promise<T> {
    const list = endpoints(this.#reference.registry, this.#options.mirrors);
    for (const { url, isMirror } of list) {
      try {
        return await work(url);
      } catch (cause) {
        this.#options.signal.throwIfAborted();
        if (!isMirror) {
          const error = TinderboxError.from(cause, "REGISTRY");
          const { registry, repository } = this.#reference;
          throw new TinderboxError(error.code, `${registry}/${repository}: ${what}: ${error.message}`, {
            cause: error,
          });
        }
      }
    }
    throw new TinderboxError("INTERNAL", "a registry without endpoints");
  }

  async *#body(response: Response): AsyncGenerator<Uint8Array> {
    if (!response.body) return;
    const reader = response.body.getReader();
    try {
      for (;;) {
        let timer: NodeJS.Timeout | undefined;
        const stalled = new Promise<never>((_, reject) => {
          timer = setTimeout(
            () => reject(new TinderboxError("REGISTRY", `no byte for ${stallMs / 1000} s`)),
            stallMs,
          );
        });
        const { done, value } = await Promise.race([reader.read(), stalled]).finally(() =>
          clearTimeout(timer),
        );
        if (done) return;
        yield value;
      }
    } finally {
      await reader.cancel().catch(() => {});
    }
  }

  async #request(endpoint: string, path: string, headers: Record<string, string>): Promise<Response> {
    const url = `${endpoint}/v2/${this.#reference.repository}/${path}`;
    for (let attempt = 1; ; attempt++) {
      const authorization = this.#headers.get(endpoint);
      const timeout = AbortSignal.timeout(stallMs);
      const started = new AbortController();
      // The time-out is for the head only; the body has its own.
      const onTimeout = (): void =>
        started.abort(new TinderboxError("REGISTRY", `no answer for ${stallMs / 1000} s`));
      timeout.addEventListener("abort", onTimeout);
      let response: Response;
      try {
        response = await fetch(url, {
          headers: authorization === undefined ? headers : { ...headers, authorization },
          signal: AbortSignal.any([this.#options.signal, started.signal]),
        });
      } catch (cause) {
        this.#options.signal.throwIfAborted();
        if (attempt < attempts) continue;
        const reason =
          cause instanceof Error && cause.cause instanceof Error ? cause.cause.message : String(cause);
        throw new TinderboxError("REGISTRY", `${endpoint}: ${reason}`, { cause });
      } finally {
        timeout.removeEventListener("abort", onTimeout);
      }
      if (response.ok) return response;
      const said = (await response.text().catch(() => "")).slice(0, 4096);
      const challenge: Challenge | undefined = parseChallenge(response.headers.get("www-authenticate") ?? "");
      if (response.status === 401 && challenge && authorization === undefined) {
        const { repository } = this.#reference;
        this.#headers.set(
          endpoint,
          await authorize(challenge, repository, this.#options.auth, this.#options.signal),
        );
        continue;
      }
      if (response.status === 401 || response.status === 403) {
        throw new TinderboxError(
          "REGISTRY_AUTH",
          `${endpoint} refused access (HTTP ${response.status}): ${quote(said)}`,
        );
      }
      if (response.status === 404)
        throw new TinderboxError("NOT_FOUND", `${endpoint} has no such image (HTTP 404)`);
      const mayPass = response.status === 429 || response.status >= 500;
      if (!mayPass || attempt >= attempts) {
        throw new TinderboxError("REGISTRY", `${endpoint} answered HTTP ${response.status}: ${quote(said)}`);
      }
      const after = Number(response.headers.get("retry-after"));
      await pause(
        Math.min(Number.isFinite(after) && after > 0 ? after * 1000 : 100 * 2 ** attempt, 10_000),
        this.#options.signal,
      );
    }
  }
}

/** Waits between two tries; the registry gives no event to wait for. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
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
