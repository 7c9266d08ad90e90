// One process of the program under test, in a directory of its own that goes with it.
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, type FSWatcher, mkdtempSync, openSync, readSync, rmSync, watch } from "node:fs";
import { join } from "node:path";
import { program, programArgs } from "./binary.ts";
import { Connection, type HttpAnswer, request } from "./connection.ts";
import { record, recordAnswer } from "./record.ts";

const startMs = 20_000;
const endMs = 30_000;
/** A line of the program's log, which may come in the middle of a line of the guest's console */
const logLine = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \[[^\]\n]*\] .*\n/g;

/** How a process ended. */
export type End = { readonly exitCode: number | null; readonly signal: string | null };

/** Starts the program without expecting anything of it; what it says goes to `output`. */
export function spawnProgram(
  args: readonly string[],
  cwd?: string,
  output: number | "pipe" = "pipe",
): ChildProcess {
  return spawn(program, [...programArgs, ...args], { cwd, stdio: ["pipe", output, output] });
}

/** A started VMM. */
export class Vmm {
  /** Where it runs, and where its files may be */
  readonly directory: string;
  readonly socket: string;
  readonly child: ChildProcess;
  readonly ended: Promise<End>;
  /** All it has said on standard output and error, the guest's console included */
  output = "";
  #connection: Connection | undefined;
  readonly #outputFd: number;
  readonly #watcher: FSWatcher;
  readonly #decoder = new TextDecoder();
  #outputRead = 0;
  #wake = (): void => {};

  private constructor(directory: string, args: readonly string[]) {
    this.directory = directory;
    this.socket = join(directory, "api.sock");
    // A file, not a pipe of Node's, which takes some hundred single bytes: what does not fit at once Firecracker throws away.
    const outputPath = join(directory, "output");
    this.#outputFd = openSync(outputPath, "a+");
    this.#watcher = watch(outputPath, () => this.#readOutput());
    const output = this.#outputFd;
    this.child = spawnProgram(["--api-sock", this.socket, ...args], directory, output);
    this.child.stdin?.on("error", () => {});
    this.ended = new Promise((resolve) => {
      this.child.once("close", (exitCode, signal) => {
        this.#readOutput();
        resolve({ exitCode, signal });
      });
    });
  }

  #readOutput(): void {
    const chunk = Buffer.alloc(1 << 16);
    for (;;) {
      const length = readSync(this.#outputFd, chunk, 0, chunk.length, this.#outputRead);
      if (length === 0) break;
      this.#outputRead += length;
      this.output += this.#decoder.decode(chunk.subarray(0, length), { stream: true });
    }
    this.#wake();
  }

  /** Starts one and waits until it listens; `prepare` fills its directory first. */
  static async start(
    args: readonly string[] = [],
    prepare: (directory: string) => readonly string[] = () => [],
  ): Promise<Vmm> {
    const directory = mkdtempSync("/tmp/contract-");
    const all = [...args, ...prepare(directory)];
    const vmm = new Vmm(directory, all);
    record({ vmm: directory, isStarted: all.includes("--config-file") });
    const deadline = performance.now() + startMs;
    for (;;) {
      try {
        vmm.#connection = await Connection.open(vmm.socket);
        return vmm;
      } catch (cause) {
        if (vmm.child.exitCode !== null || vmm.child.signalCode !== null || performance.now() > deadline) {
          await vmm.stop();
          throw new Error(`the program does not listen: ${vmm.output}`, { cause });
        }
        // The socket's file appears before anybody listens: there is no event to wait for.
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    }
  }

  /** Sends one request on a connection that is kept. @throws when there is no answer */
  async send(method: string, path: string, body?: string | Buffer): Promise<HttpAnswer> {
    this.#connection ??= await Connection.open(this.socket);
    this.#connection.write(request(method, path, body));
    const answer = await this.#connection.answer();
    if (answer === undefined)
      throw new Error(`no answer to ${method} ${path}; it said: ${this.output.slice(-2000)}`);
    recordAnswer(this.directory, { method, path, body }, answer);
    return answer;
  }

  /** The JSON that a GET shows. */
  async get(path: string): Promise<unknown> {
    const { status, text } = await this.send("GET", path);
    if (status !== 200) throw new Error(`GET ${path}: ${status} ${text}`);
    return JSON.parse(text);
  }

  /** Sends a request that has to succeed without a body. */
  async put(path: string, body: object, method = "PUT"): Promise<void> {
    const { status, text } = await this.send(method, path, JSON.stringify(body));
    if (status !== 204) throw new Error(`${method} ${path} ${JSON.stringify(body)}: ${status} ${text}`);
  }

  /** Resolves when `pattern` is in the output from `from` on, the log's lines left out. @throws when it ends before, or after `ms` */
  async said(pattern: RegExp, from = 0, ms = 120_000): Promise<RegExpExecArray> {
    const deadline = AbortSignal.timeout(ms);
    for (;;) {
      this.#readOutput();
      const found = pattern.exec(this.output.slice(from).replace(logLine, ""));
      if (found !== null) return found;
      if (this.child.exitCode !== null || this.child.signalCode !== null || deadline.aborted)
        throw new Error(`${String(pattern)} was not said: ${this.output.slice(-3000)}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        deadline.onabort = () => resolve();
      });
    }
  }

  /** Its end, which has to come by itself. */
  async end(): Promise<End> {
    const limit = Promise.withResolvers<never>();
    const timer = setTimeout(() => limit.reject(new Error(`it runs on: ${this.output.slice(-2000)}`)), endMs);
    try {
      return await Promise.race([this.ended, limit.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Kills it if need be, and removes its directory. */
  async stop(): Promise<void> {
    this.#connection?.close();
    this.child.kill("SIGKILL");
    await this.ended;
    this.#watcher.close();
    closeSync(this.#outputFd);
    rmSync(this.directory, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
