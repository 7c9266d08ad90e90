/** One VMM process with Firecracker's flags, and its API without any client library: what is sent is what the test says. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";

/** What a VMM ended with. */
export type VmmEnd = {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly said: string;
};

export type Vmm = {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly socket: string;
  readonly ended: Promise<VmmEnd>;
  /** Resolves when the API socket accepts connections. @throws {Error} when the VMM ends before that */
  readonly ready: Promise<void>;
};

export type ApiAnswer = { readonly status: number; readonly body: string };

function accepts(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(socket);
    connection.once("connect", () => resolve(true));
    connection.once("error", () => resolve(false));
    connection.once("connect", () => connection.destroy());
  });
}

/** Starts `program` with its API socket in `directory`. */
export function startVmm(
  program: string,
  directory: string,
  options: { readonly args?: readonly string[]; readonly env?: NodeJS.ProcessEnv } = {},
): Vmm {
  const socket = join(directory, "api.sock");
  const child = spawn(program, ["--api-sock", socket, ...(options.args ?? [])], {
    stdio: ["ignore", "pipe", "pipe"],
    env: options.env ?? process.env,
  });
  let said = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk: Buffer) => {
      said = (said + chunk.toString("utf8")).slice(-20_000);
    });
  let isOver = false;
  const ended = new Promise<VmmEnd>((resolve, reject) => {
    child.once("error", reject);
    // Not "close": what it started may hold its output open a moment longer than it lives.
    child.once("exit", (code, signal) => {
      isOver = true;
      resolve({ code, signal, said });
    });
  });
  const ready = (async (): Promise<void> => {
    while (!isOver) {
      if (existsSync(socket) && (await accepts(socket))) return;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    throw new Error(`${program} ended before it listened: ${said}`);
  })();
  ready.catch(() => {});
  return { child, pid: child.pid ?? 0, socket, ended, ready };
}

/** One request on a connection of its own. @throws {Error} when the connection ends without an answer */
export function callApi(socket: string, method: string, path: string, body?: unknown): Promise<ApiAnswer> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath: socket, method, path, agent: false }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
      answer.on("end", () => resolve({ status: answer.statusCode ?? 0, body: text }));
      answer.on("error", reject);
    });
    outgoing.on("error", reject);
    const text = body === undefined ? undefined : JSON.stringify(body);
    if (text !== undefined) outgoing.setHeader("Content-Length", Buffer.byteLength(text));
    outgoing.end(text);
  });
}
