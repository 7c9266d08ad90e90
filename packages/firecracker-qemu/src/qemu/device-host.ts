// `tinderbox-native microvm-devices`: vsock and network devices, the guest's memory, files for a confined QEMU. Spoken to by JSON
// lines over a socket pair; it ends, and removes its sockets, when that closes.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { Duplex } from "node:stream";
import { nativeProgram } from "./native.ts";

/** A request that the program could not do; `errno` is the system's, if it was the system's refusal. */
export class DeviceError extends Error {
  readonly errno: number | undefined;
  constructor(message: string, errno: number | undefined) {
    super(message);
    this.name = "DeviceError";
    this.errno = errno;
  }
}

type Answer = Readonly<Record<string, unknown>>;
type Waiting = { readonly resolve: (value: Answer) => void; readonly reject: (cause: Error) => void };

const controlFd = 3;

function record(value: unknown): Answer {
  return typeof value === "object" && value !== null ? Object.fromEntries(Object.entries(value)) : {};
}

/** One running program. */
export class DeviceHost {
  readonly #child: ChildProcess;
  readonly #control: Duplex;
  readonly #waiting = new Map<number, Waiting>();
  readonly #onEvent: (event: Answer) => void;
  readonly #ended = Promise.withResolvers<string>();
  #pending = "";
  #next = 1;

  /** `label` is for people, in the process's arguments; `onEvent` gets what it says unasked. @throws {Error} when it cannot be started */
  constructor(label: string, onEvent: (event: Answer) => void) {
    this.#onEvent = onEvent;
    this.#child = spawn(nativeProgram, ["microvm-devices", label], {
      stdio: ["inherit", "inherit", "inherit", "pipe"],
    });
    this.#child.once("error", (cause) => this.#end(cause.message));
    this.#child.once("exit", (code, signal) =>
      this.#end(`tinderbox-native ended (${signal ?? `status ${code}`})`),
    );
    const control = this.#child.stdio[controlFd];
    if (!(control instanceof Duplex)) throw new Error(`${nativeProgram} cannot be started`);
    this.#control = control;
    control.setEncoding("utf8");
    control.on("data", (text: string) => this.#read(text));
    // Its end says why.
    control.on("error", () => {});
  }

  /** Why it ended, which is the end of the machine's devices. */
  get ended(): Promise<string> {
    return this.#ended.promise;
  }

  #end(why: string): void {
    for (const { reject } of this.#waiting.values()) reject(new Error(why));
    this.#waiting.clear();
    this.#ended.resolve(why);
  }

  #read(text: string): void {
    this.#pending += text;
    for (let end = this.#pending.indexOf("\n"); end >= 0; end = this.#pending.indexOf("\n")) {
      const message = record(JSON.parse(this.#pending.slice(0, end)));
      this.#pending = this.#pending.slice(end + 1);
      const waiting = this.#waiting.get(Number(message["id"]));
      if (waiting === undefined) this.#onEvent(message);
      else {
        this.#waiting.delete(Number(message["id"]));
        if ("return" in message) waiting.resolve(record(message["return"]));
        else {
          const errno = message["errno"];
          waiting.reject(
            new DeviceError(String(message["error"]), typeof errno === "number" ? errno : undefined),
          );
        }
      }
    }
  }

  /** @throws {DeviceError} when it refuses @throws {Error} when it has ended */
  request(op: string, args: object = {}): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) {
        reject(new Error("tinderbox-native has ended"));
        return;
      }
      const id = this.#next++;
      this.#waiting.set(id, { resolve, reject });
      this.#control.write(`${JSON.stringify({ id, op, ...args })}\n`);
    });
  }

  /** A request that is answered by the name of an abstract socket. */
  async requestSocket(op: string, args: object = {}): Promise<string> {
    return String((await this.request(op, args))["socket"]);
  }

  /** Opens a file that it has made and named by its descriptor; the caller closes it. */
  async requestFile(op: string, args: object): Promise<number> {
    const { fd } = await this.request(op, args);
    return openSync(`/proc/${this.#child.pid}/fd/${Number(fd)}`, "r+");
  }

  /** Hands an open file of ours to whoever listens on one of its sockets. */
  handOver(fd: number, socket: string): void {
    const { status, stderr } = spawnSync(nativeProgram, ["send-fd", socket], {
      encoding: "utf8",
      stdio: ["ignore", "ignore", "pipe", fd],
      timeout: 5_000,
    });
    if (status !== 0) throw new Error(`a descriptor cannot be handed over: ${stderr.trim()}`);
  }

  /** Lets it remove its sockets and end. */
  async close(): Promise<void> {
    this.#control.end();
    await this.#ended.promise;
  }
}

/** The descriptors that QEMU inherits, by the numbers that they have there. */
export class InheritedFiles {
  readonly #first: number;
  readonly #fds: number[] = [];
  readonly #own: number[] = [];

  /** `first` is the first number that is free in QEMU. */
  constructor(first: number) {
    this.#first = first;
  }

  get fds(): readonly number[] {
    return this.#fds;
  }

  /** Takes `fd`, which is closed here. @returns its number in QEMU */
  add(fd: number): number {
    this.#own.push(fd);
    return this.lend(fd);
  }

  /** The same for one that stays its owner's. */
  lend(fd: number): number {
    this.#fds.push(fd);
    return this.#first + this.#fds.length - 1;
  }

  close(): void {
    for (const fd of this.#own.splice(0)) closeSync(fd);
    this.#fds.length = 0;
  }
}
