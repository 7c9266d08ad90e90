/** The client side of the OCI distribution protocol: manifests and blobs of one repository, verified while they stream. */
import { rm } from "node:fs/promises";
import { TinderboxError } from "../base/errors.ts";
import type { RegistryAuth } from "./contract.ts";
import {
  type BlobOptions,
  type Descriptor,
  type ImageOrigin,
  type ManifestBytes,
  maxManifestBytes,
} from "./image-origin.ts";
import type { Reference } from "./reference.ts";
import { authorize, parseChallenge } from "./registry-auth.ts";
import {
  beginningOf,
  bodyOf,
  type HttpOptions,
  PassingFault,
  pause,
  quote,
  request,
  retryAfterOf,
} from "./registry-http.ts";
import { BlobFile, digestOf } from "./verified-copy.ts";

export const manifestTypes = [
  "application/vnd.oci.image.index.v1+json",
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
  "application/vnd.docker.distribution.manifest.v2+json",
];

/** How long others are waited for. */
export type Patience = {
  /** A registry that sends nothing for this long is given up, `ms` */
  readonly stallMs: number;
  /** Before the second try, `ms`; twice as long before each further one */
  readonly pauseMs: number;
};

export const defaultPatience: Patience = { stallMs: 30_000, pauseMs: 200 };

/** A mirror is tried once: there is somebody else to ask. */
const tries = 4;
/** A download that got this much further may be cut again. */
const progressBytes = 1 << 20;
const maxPauseMs = 10_000;
/** A registry that wants to be left alone for longer gets its way: the pull fails, and who asked for it asks again. */
const maxRetryAfterMs = 30_000;

export type RegistryOptions = {
  readonly mirrors: readonly string[];
  /** Asked when an endpoint wants credentials; those of one are never for another */
  readonly credentials: (endpoint: Endpoint) => Promise<RegistryAuth | undefined>;
  readonly signal: AbortSignal;
  /** @default defaultPatience */
  readonly patience?: Patience;
};

export type Endpoint = {
  readonly url: string;
  readonly isMirror: boolean;
  /** Without progress */
  readonly tries: number;
};

function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$/.test(host);
}

/** Places that may have the repository, in the order in which they are asked. */
function endpoints(registry: string, mirrors: readonly string[]): readonly Endpoint[] {
  const host = registry === "docker.io" ? "registry-1.docker.io" : registry;
  const own = { url: `${isLoopback(registry) ? "http" : "https"}://${host}`, isMirror: false, tries };
  return [...mirrors.map((mirror) => ({ url: mirror.replace(/\/+$/, ""), isMirror: true, tries: 1 })), own];
}

async function boundedManifest(response: Response, http: HttpOptions): Promise<Buffer> {
  const bytes = await beginningOf(response, maxManifestBytes + 1, http);
  if (bytes.length > maxManifestBytes)
    throw new TinderboxError("IMAGE_MALFORMED", `the manifest is over ${maxManifestBytes} bytes`);
  return bytes;
}

export class RegistryClient implements ImageOrigin {
  readonly #reference: Reference;
  readonly #options: RegistryOptions;
  /** Authorization header by endpoint */
  readonly #authorizations = new Map<string, string>();
  /** Where the last manifest was */
  #source: Endpoint | undefined;

  constructor(reference: Reference, options: RegistryOptions) {
    this.#reference = reference;
    this.#options = options;
  }

  #http(signal: AbortSignal): HttpOptions {
    return { signal, stallMs: this.#patience.stallMs };
  }

  get #patience(): Patience {
    return this.#options.patience ?? defaultPatience;
  }

  async manifest(which: string): Promise<ManifestBytes> {
    return this.#eachEndpoint(`manifest ${which}`, async (endpoint) => {
      const found = await this.#manifestAt(endpoint, which);
      this.#source = endpoint;
      return found;
    });
  }

  /** A manifest by tag or digest at the place that the image's own manifest came from, and nowhere else. @throws as `manifest` */
  async manifestBeside(which: string): Promise<ManifestBytes> {
    return await this.#beside(`manifest ${which}`, (endpoint) => this.#manifestAt(endpoint, which));
  }

  /** The index of what refers to the manifest `digest`, at the same place. @throws as `manifest`; NOT_FOUND where nobody keeps one */
  async referrersBeside(digest: string): Promise<Buffer> {
    return await this.#beside(`referrers of ${digest}`, (endpoint) => {
      const http = this.#http(this.#options.signal);
      return this.#retrying(endpoint, http.signal, async () => {
        const accept = "application/vnd.oci.image.index.v1+json";
        return await boundedManifest(
          await this.#get(endpoint, `referrers/${digest}`, { accept }, http),
          http,
        );
      });
    });
  }

  async #beside<T>(what: string, work: (endpoint: Endpoint) => Promise<T>): Promise<T> {
    const source = this.#source;
    if (source === undefined) throw new TinderboxError("INTERNAL", "no manifest was asked for yet");
    try {
      return await work({ ...source, tries });
    } catch (cause) {
      this.#options.signal.throwIfAborted();
      throw this.#named(what, TinderboxError.from(cause));
    }
  }

  #manifestAt(endpoint: Endpoint, which: string): Promise<ManifestBytes> {
    const http = this.#http(this.#options.signal);
    return this.#retrying(endpoint, http.signal, async () => {
      const accept = manifestTypes.join(", ");
      const response = await this.#get(endpoint, `manifests/${which}`, { accept }, http);
      const bytes = await boundedManifest(response, http);
      const isDigest = which.includes(":");
      const digest = digestOf(bytes, isDigest ? which : undefined);
      if (isDigest && which !== digest)
        throw new TinderboxError("IMAGE_DIGEST", `the manifest has the digest ${digest}`);
      const mediaType = response.headers.get("content-type")?.split(";")[0]?.trim() ?? "";
      return { bytes, mediaType, digest };
    });
  }

  /** Goes on where a cut connection ended. */
  async blob(descriptor: Descriptor, path: string, options: BlobOptions): Promise<void> {
    await this.#eachEndpoint(`blob ${descriptor.digest}`, async (endpoint) => {
      try {
        await using file = await BlobFile.create(descriptor, path);
        await this.#download(endpoint, descriptor, file, options);
        file.verify();
      } catch (cause) {
        await rm(path, { force: true });
        throw cause;
      }
    });
  }

  async #download(
    endpoint: Endpoint,
    descriptor: Descriptor,
    file: BlobFile,
    options: BlobOptions,
  ): Promise<void> {
    const http = this.#http(options.signal);
    let mark = 0;
    const isFurther = (): boolean => {
      if (file.size - mark < progressBytes) return false;
      mark = file.size;
      return true;
    };
    const fetchRest = async (): Promise<void> => {
      const from = file.size;
      const range: Record<string, string> = from > 0 ? { range: `bytes=${from}-` } : {};
      const response = await this.#get(endpoint, `blobs/${descriptor.digest}`, range, http);
      const isRest = response.headers.get("content-range")?.startsWith(`bytes ${from}-`) === true;
      if (from > 0 && !(response.status === 206 && isRest)) {
        await file.startOver();
        mark = 0;
      }
      for await (const chunk of bodyOf(response, http)) {
        await file.append(chunk);
        options.onBytes?.(file.size);
      }
      if (file.size < descriptor.size)
        throw new PassingFault(`the blob ended at byte ${file.size} of ${descriptor.size}`);
    };
    await this.#retrying(endpoint, options.signal, fetchRest, isFurther);
  }

  /** Does `work` again after a fault that may pass; `progressed` says that the count of tries begins anew. */
  async #retrying<T>(
    endpoint: Endpoint,
    signal: AbortSignal,
    work: () => Promise<T>,
    progressed: () => boolean = () => false,
  ): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work();
      } catch (cause) {
        signal.throwIfAborted();
        if (!(cause instanceof PassingFault)) throw cause;
        if (progressed()) attempt = 1;
        else if (attempt >= endpoint.tries) throw cause;
        const { retryAfterMs } = cause;
        if (retryAfterMs !== undefined && retryAfterMs > maxRetryAfterMs) throw cause;
        const wait = Math.min(this.#patience.pauseMs * 2 ** (attempt - 1), maxPauseMs);
        await pause(retryAfterMs ?? wait, signal);
      }
    }
  }

  /** An error with what it is about. */
  #named(what: string, error: TinderboxError, more = ""): TinderboxError {
    if (error.code === "INTERNAL") return error;
    const { registry, repository } = this.#reference;
    return new TinderboxError(error.code, `${registry}/${repository}: ${what}: ${error.message}${more}`, {
      cause: error,
      ...(error.hint !== undefined && { hint: error.hint }),
    });
  }

  /** Tries mirrors, then the registry; the registry's own error is the one thrown. */
  async #eachEndpoint<T>(what: string, work: (endpoint: Endpoint) => Promise<T>): Promise<T> {
    const before: string[] = [];
    for (const endpoint of endpoints(this.#reference.registry, this.#options.mirrors)) {
      try {
        return await work(endpoint);
      } catch (cause) {
        this.#options.signal.throwIfAborted();
        const error = TinderboxError.from(cause);
        // A full disk is no mirror's fault.
        if (endpoint.isMirror && error.code !== "INTERNAL") {
          before.push(`; mirror ${endpoint.url}: ${error.message}`);
          continue;
        }
        throw this.#named(what, error, before.join(""));
      }
    }
    throw new TinderboxError("INTERNAL", "a registry without endpoints");
  }

  /** An answer with the thing in it; everything else is thrown. */
  async #get(
    endpoint: Endpoint,
    path: string,
    headers: Record<string, string>,
    http: HttpOptions,
  ): Promise<Response> {
    const { url } = endpoint;
    const { repository } = this.#reference;
    for (let mayAuthorize = true; ; mayAuthorize = false) {
      const authorization = this.#authorizations.get(url);
      const response = await request(
        `${url}/v2/${repository}/${path}`,
        authorization === undefined ? headers : { ...headers, authorization },
        http,
      );
      if (response.ok) return response;
      const { status } = response;
      const challenge = parseChallenge(response.headers.get("www-authenticate") ?? "");
      const retryAfterMs = retryAfterOf(response);
      const said = await beginningOf(response, 4096, http).catch(() => Buffer.alloc(0));
      http.signal.throwIfAborted();
      // Once: a token that has run out is replaced, one that is refused is not asked for again and again.
      if (status === 401 && challenge && mayAuthorize) {
        const auth = await this.#options.credentials(endpoint);
        this.#authorizations.set(url, await authorize(challenge, url, repository, auth, http));
        continue;
      }
      const later = retryAfterMs === undefined ? "" : `, try again after ${Math.ceil(retryAfterMs / 1000)} s`;
      const message = `${url} answered HTTP ${status}${later}: ${quote(said.toString("utf8"))}`;
      if (status === 401 || status === 403)
        throw new TinderboxError(
          "REGISTRY_AUTH",
          `${url} refused access (HTTP ${status}): ${quote(said.toString("utf8"))}`,
        );
      if (status === 404) throw new TinderboxError("NOT_FOUND", `${url} does not have it (HTTP 404)`);
      if (status === 429 || status >= 500)
        throw new PassingFault(message, retryAfterMs === undefined ? {} : { retryAfterMs });
      throw new TinderboxError("REGISTRY", message);
    }
  }
}
