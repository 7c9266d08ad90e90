// The API socket: at most ten connections, and one request at a time over all of them, as Firecracker answers. So a
// reply means done, and no two requests ever see the machine half changed.
import { createServer, type Socket } from "node:net";
import { HttpError, type HttpVersion, type Request, RequestParser } from "./parser.ts";

/** What a request is answered with; no body means 204. */
export interface Answer {
  readonly status: number;
  /** JSON text */
  readonly body?: string;
  /** The request used a field that will go */
  readonly isDeprecated?: boolean;
}

const maxConnections = 10;
/** Bytes of a client that sends without waiting; beyond them it is not read until they are worked off */
const maxBacklog = 256 * 1024;

/** A listening API socket. */
export interface ApiServer {
  /** Resolves when what has been asked is answered. */
  idle(): Promise<void>;
}

/** Listens on `path`, which must not exist yet; rejects with the listen error. `handle` never rejects. */
export async function serve(
  path: string,
  maxBody: number,
  handle: (request: Request) => Promise<Answer>,
): Promise<ApiServer> {
  let turn: Promise<unknown> = Promise.resolve();
  const inTurn = (request: Request): Promise<Answer> => {
    const answer = turn.then(() => handle(request));
    turn = answer;
    return answer;
  };
  let connections = 0;
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    socket.on("error", () => socket.destroy());
    if (connections === maxConnections) {
      socket.end(encodeFull());
      socket.resume();
      return;
    }
    connections += 1;
    socket.once("close", () => {
      connections -= 1;
    });
    new Connection(socket, maxBody, inTurn).start();
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ path, backlog: 128 }, resolve);
  });
  return {
    idle: async () => {
      await turn;
      await settled();
    },
  };
}

/** Two rounds of the event loop: whatever had come by now has been read. */
async function settled(): Promise<void> {
  for (let round = 0; round < 2; round++) await new Promise<void>((resolve) => setImmediate(resolve));
}

class Connection {
  readonly #socket: Socket;
  readonly #parser: RequestParser;
  readonly #handle: (request: Request) => Promise<Answer>;
  readonly #incoming: Buffer[] = [];
  #backlog = 0;
  #isWorking = false;

  constructor(socket: Socket, maxBody: number, handle: (request: Request) => Promise<Answer>) {
    this.#socket = socket;
    this.#handle = handle;
    this.#parser = new RequestParser(maxBody, (version) => this.#socket.write(encodeContinue(version)));
  }

  start(): void {
    const socket = this.#socket;
    socket.on("data", (chunk) => {
      this.#incoming.push(chunk);
      this.#backlog += chunk.length;
      if (this.#backlog > maxBacklog) socket.pause();
      if (!this.#isWorking) void this.#work();
    });
    // A client that has closed its sending side is taken for gone: what it asked last is not done, and not answered.
    socket.on("end", () => socket.destroy());
  }

  async #work(): Promise<void> {
    this.#isWorking = true;
    await settled();
    for (let chunk = this.#incoming.shift(); chunk !== undefined; chunk = this.#incoming.shift()) {
      for (let at = 0; at < chunk.length && !this.#socket.destroyed; ) {
        const bytes = chunk.subarray(at, at + this.#parser.room);
        at += bytes.length;
        await this.#read(bytes);
      }
      this.#backlog -= chunk.length;
      if (this.#backlog <= maxBacklog) this.#socket.resume();
    }
    this.#isWorking = false;
  }

  async #read(bytes: Buffer): Promise<void> {
    let requests: readonly Request[];
    try {
      requests = this.#parser.read(bytes);
    } catch (thrown) {
      if (!(thrown instanceof HttpError)) throw thrown;
      await this.#write(encodeError(thrown.message));
      return;
    }
    for (const request of requests) {
      if (this.#socket.destroyed) return;
      await this.#write(encode(await this.#handle(request)));
    }
  }

  /** Resolves when the bytes have left, or never will: a client that does not read is not served further. */
  #write(bytes: Buffer): Promise<void> {
    const socket = this.#socket;
    if (socket.destroyed || socket.write(bytes)) return Promise.resolve();
    return new Promise((resolve) => {
      const done = (): void => {
        socket.off("drain", done);
        socket.off("close", done);
        resolve();
      };
      socket.on("drain", done);
      socket.on("close", done);
    });
  }
}

const head = (status: number, version: HttpVersion = "HTTP/1.1"): string =>
  `${version} ${status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n`;

function encodeContinue(version: HttpVersion): Buffer {
  return Buffer.from(`${head(100, version)}\r\n`);
}

/** The bytes of a response; the reason phrase is empty, as the real server leaves it. */
function encode({ status, body, isDeprecated }: Answer): Buffer {
  const deprecation = isDeprecated === true ? "Deprecation: true\r\n" : "";
  if (body === undefined) return Buffer.from(`${head(status)}${deprecation}\r\n`);
  const payload = Buffer.from(body);
  const about = `Content-Type: application/json\r\nContent-Length: ${payload.length}\r\n\r\n`;
  return Buffer.concat([Buffer.from(`${head(status)}${deprecation}${about}`), payload]);
}

/** A request that is not HTTP. The line break in the string is the real server's: its body is no JSON, and clients know it. */
function encodeError(message: string): Buffer {
  return encode({
    status: 400,
    body: `{ "error": "${message}\nWhole requests that came together with it are dropped." }`,
  });
}

function encodeFull(): Buffer {
  const body = `{ "error": "${maxConnections} connections are open: no more." }`;
  return Buffer.from(
    `HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
}
