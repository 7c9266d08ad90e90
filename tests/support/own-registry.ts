/** A registry of a test's own, which can misbehave: what it holds is plain data, what it does to a request is the test's. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { mediaTypes, ownArchitecture, sha256 } from "./oci-layout.ts";

export type Exchange = {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** `/v2/NAME/manifests/latest` */
  readonly path: string;
  /** The thing asked for, undefined when it is not there */
  readonly body: Buffer | undefined;
  readonly mediaType: string;
  /** Answers as a good registry does, with Range */
  serve(): void;
};

export class OwnRegistry {
  readonly requests: string[] = [];
  /** Authorization headers, in order */
  readonly authorizations: string[] = [];
  readonly #things = new Map<string, { body: Buffer; mediaType: string }>();
  readonly #server: Server;
  /** What is done with a request; undefined: what a good registry does */
  misbehave: ((exchange: Exchange) => void) | undefined;
  host = "";

  constructor() {
    this.#server = createServer((request, response) => this.#answer(request, response));
  }

  get url(): string {
    return `http://${this.host}`;
  }

  async start(): Promise<this> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    const address = this.#server.address();
    if (address === null || typeof address === "string") throw new Error("no TCP port");
    this.host = `127.0.0.1:${address.port}`;
    return this;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? "";
    this.requests.push(`${path}${request.headers.range === undefined ? "" : ` ${request.headers.range}`}`);
    this.authorizations.push(request.headers.authorization ?? "");
    const thing = this.#things.get(path);
    const serve = (): void => {
      if (thing === undefined) return void response.writeHead(404).end("{}");
      const { body, mediaType } = thing;
      const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
      const head = { "content-type": mediaType, "content-length": body.length - from };
      if (from === 0) response.writeHead(200, head);
      else
        response.writeHead(206, {
          ...head,
          "content-range": `bytes ${from}-${body.length - 1}/${body.length}`,
        });
      response.end(body.subarray(from));
    };
    const exchange = { request, response, path, body: thing?.body, mediaType: thing?.mediaType ?? "", serve };
    (this.misbehave ?? serve.bind(undefined))(exchange);
  }

  blob(
    name: string,
    body: Buffer,
    mediaType = "application/octet-stream",
  ): { digest: string; size: number; mediaType: string } {
    this.#things.set(`/v2/${name}/blobs/${sha256(body)}`, { body, mediaType: "application/octet-stream" });
    return { digest: sha256(body), size: body.length, mediaType };
  }

  manifest(name: string, content: object, mediaType: string = mediaTypes.manifest, tag = "latest"): string {
    return this.manifestText(name, JSON.stringify(content), mediaType, tag);
  }

  /** A manifest byte by byte, as a signature is of bytes; its digest. */
  manifestText(name: string, text: string, mediaType: string, tag: string): string {
    const body = Buffer.from(text);
    for (const which of [tag, sha256(body)])
      this.#things.set(`/v2/${name}/manifests/${which}`, { body, mediaType });
    return sha256(body);
  }

  /** What the referrers API answers about a manifest; where it was not told it is not there. */
  referrers(name: string, digest: string, index: object): void {
    const body = Buffer.from(JSON.stringify(index));
    this.#things.set(`/v2/${name}/referrers/${digest}`, { body, mediaType: mediaTypes.index });
  }

  /** An image of plain tar layers; its manifest's digest. */
  image(name: string, layers: readonly Buffer[], tag = "latest", config: object = {}): string {
    const configBlob = this.blob(
      name,
      Buffer.from(
        JSON.stringify({
          architecture: ownArchitecture,
          os: "linux",
          config,
          rootfs: { diff_ids: layers.map(sha256) },
        }),
      ),
      mediaTypes.config,
    );
    const blobs = layers.map((layer) => this.blob(name, layer, mediaTypes.tar));
    return this.manifest(
      name,
      { schemaVersion: 2, config: configBlob, layers: blobs },
      mediaTypes.manifest,
      tag,
    );
  }
}
