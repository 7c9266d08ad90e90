// QEMU's control protocol (QMP) over a socket: one command at a time, events handed on as they come.
import type { Duplex } from "node:stream";

/** A command that QEMU refused, in its words. */
export class QmpError extends Error {
  constructor(command: string, description: string) {
    super(`QEMU refused ${command}: ${description}`);
    this.name = "QmpError";
  }
}

export type QmpEvent = { readonly name: string; readonly data: Readonly<Record<string, unknown>> };

type Waiting = {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (cause: Error) => void;
};

/** QEMU is trusted less than we are: a line longer than this ends the conversation. */
const maxLine = 1 << 20;

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? Object.fromEntries(Object.entries(value)) : {};
}

/** The conversation with one QEMU; make it before QEMU can have said anything. */
export class QmpClient {
  readonly #stream: Duplex;
  readonly #waiting: Waiting[] = [];
  readonly #onEvent: (event: QmpEvent) => void;
  readonly #greeted = Promise.withResolvers<void>();
  #pending = "";
  #failure: Error | undefined;

  constructor(stream: Duplex, onEvent: (event: QmpEvent) => void) {
    this.#stream = stream;
    this.#onEvent = onEvent;
    this.#greeted.promise.catch(() => {});
    stream.setEncoding("utf8");
    stream.on("data", (text: string) => this.#read(text));
    stream.on("error", (cause) => this.#fail(cause));
    stream.on("close", () => this.#fail(new Error("QEMU has ended")));
  }

  /** Waits for QEMU's greeting and leaves its negotiation mode. */
  async open(): Promise<void> {
    await this.#greeted.promise;
    await this.execute("qmp_capabilities");
  }

  /** Runs a command. @throws {QmpError} when QEMU refuses it @throws {Error} when QEMU is gone */
  execute(command: string, args?: object): Promise<unknown> {
    if (this.#failure) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ command, resolve, reject });
      this.#stream.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    });
  }

  #read(text: string): void {
    this.#pending += text;
    for (let end = this.#pending.indexOf("\n"); end >= 0; end = this.#pending.indexOf("\n")) {
      const line = this.#pending.slice(0, end).trim();
      this.#pending = this.#pending.slice(end + 1);
      if (line !== "") this.#message(line);
    }
    if (this.#pending.length > maxLine) this.#stream.destroy(new Error("QEMU's control line is too long"));
  }

  #message(line: string): void {
    let message: Readonly<Record<string, unknown>>;
    try {
      message = record(JSON.parse(line));
    } catch (cause) {
      this.#stream.destroy(new Error("QEMU's control line is not JSON", { cause }));
      return;
    }
    if ("QMP" in message) this.#greeted.resolve();
    else if (typeof message["event"] === "string")
      this.#onEvent({ name: message["event"], data: record(message["data"]) });
    else if ("error" in message) {
      const waiting = this.#waiting.shift();
      waiting?.reject(new QmpError(waiting.command, String(record(message["error"])["desc"])));
    } else if ("return" in message) this.#waiting.shift()?.resolve(message["return"]);
  }

  #fail(cause: Error): void {
    this.#failure ??= cause;
    this.#greeted.reject(this.#failure);
    for (const waiting of this.#waiting.splice(0)) waiting.reject(this.#failure);
  }
}
