// An HTTP client that hides nothing: it sends the bytes it is given, and shows the answer's head as it came.
import { connect, type Socket } from "node:net";

/** One answer, byte for byte in its parts. */
export type HttpAnswer = {
  readonly status: number;
  /** e.g. `HTTP/1.1 204 ` */
  readonly line: string;
  readonly headers: ReadonlyMap<string, string>;
  readonly text: string;
};

const timeoutMs = 60_000;

/** A connection to an API socket. */
export class Connection {
  readonly #socket: Socket;
  #received = Buffer.alloc(0);
  #isOver = false;
  #wake = (): void => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    const over = (): void => {
      this.#isOver = true;
      this.#wake();
    };
    socket.on("end", over).on("error", over).on("close", over);
  }

  /** Tries again while more connections wait than the server has room for. @throws the system's error */
  static async open(path: string): Promise<Connection> {
    for (;;) {
      const socket = connect({ path, allowHalfOpen: true });
      const failure = await new Promise<Error | undefined>((resolve) => {
        socket.once("connect", () => resolve(undefined)).once("error", resolve);
      });
      if (failure === undefined) return new Connection(socket);
      if (!("code" in failure) || failure.code !== "EAGAIN") throw failure;
    }
  }

  /** Sends bytes as they are. */
  write(bytes: string | Buffer): void {
    if (!this.#socket.destroyed) this.#socket.write(bytes);
  }

  /** Closes the sending side. */
  endSending(): void {
    this.#socket.end();
  }

  close(): void {
    this.#socket.destroy();
  }

  /** The next answer; undefined when the other side has closed instead. */
  async answer(): Promise<HttpAnswer | undefined> {
    const headEnd = await this.#until(() => {
      const at = this.#received.indexOf("\r\n\r\n");
      return at < 0 ? undefined : at;
    });
    if (headEnd === undefined) return undefined;
    const [line = "", ...fields] = this.#received.toString("latin1", 0, headEnd).split("\r\n");
    const headers = new Map(
      fields.map((field) => [field.slice(0, field.indexOf(":")), field.replace(/^[^:]*: ?/, "")]),
    );
    const length = Number(headers.get("Content-Length") ?? 0);
    const start = headEnd + 4;
    const end = await this.#until(() =>
      this.#received.length >= start + length ? start + length : undefined,
    );
    if (end === undefined) return undefined;
    const text = this.#received.toString("utf8", start, end);
    this.#received = this.#received.subarray(end);
    return { status: Number(line.split(" ")[1]), line, headers, text };
  }

  /** Whether the other side closes, with nothing more to say. */
  async closes(): Promise<boolean> {
    const more = await this.#until(() => (this.#received.length > 0 ? true : undefined));
    return more === undefined;
  }

  async #until<T>(look: () => T | undefined): Promise<T | undefined> {
    const deadline = AbortSignal.timeout(timeoutMs);
    for (;;) {
      const found = look();
      if (found !== undefined || this.#isOver) return found;
      await new Promise<void>((resolve, reject) => {
        this.#wake = resolve;
        deadline.onabort = () => reject(new Error(`no answer in ${timeoutMs} ms`));
      });
    }
  }
}

/** The bytes of a request. */
export function request(method: string, path: string, body?: string | Buffer): Buffer {
  const head = `${method} ${path} HTTP/1.1\r\nHost: localhost\r\n`;
  if (body === undefined) return Buffer.from(`${head}\r\n`);
  return Buffer.concat([
    Buffer.from(`${head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n`),
    Buffer.from(body),
  ]);
}
