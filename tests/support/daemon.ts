/** A tinderboxd of a test's own. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export type TestDaemon = {
  readonly socket: string;
  readonly child: ChildProcess;
  /** What it has said on standard error so far. */
  said(): string;
  /** Asks it to end and waits; pods keep running. */
  stop(): Promise<void>;
  kill9(): Promise<void>;
};

export type TestDaemonOptions = {
  readonly root: string;
  readonly state: string;
  readonly configToml?: string;
  /** @default "debug" */
  readonly logLevel?: string;
  /** Another installation's. @default this project's */
  readonly program?: string;
  /** More of the environment than the test's own. */
  readonly env?: NodeJS.ProcessEnv;
};

const ownProgram = join(import.meta.dirname, "../../bin/tinderboxd");

/** Starts the daemon and waits for its "listening" line. */
export async function startDaemon(options: TestDaemonOptions): Promise<TestDaemon> {
  mkdirSync(options.root, { recursive: true });
  const config = join(options.root, "test-config.toml");
  const head = `root = ${JSON.stringify(options.root)}\nstate = ${JSON.stringify(options.state)}\n`;
  const socket = join(options.state, "tinderbox.sock");
  writeFileSync(config, `${head}listen = ${JSON.stringify(socket)}\n${options.configToml ?? ""}`);
  const child = spawn(
    options.program ?? ownProgram,
    ["--config", config, "--log-level", options.logLevel ?? "debug"],
    {
      stdio: ["ignore", "inherit", "pipe"],
      env: { ...process.env, ...options.env },
    },
  );
  const ended = once(child, "exit");
  let said = "";
  await new Promise<void>((resolve, reject) => {
    child.stderr?.on("data", (chunk: Buffer) => {
      said += chunk.toString("utf8");
      if (/ listening /.test(said)) resolve();
    });
    child.once("exit", (code) => reject(new Error(`tinderboxd ended with status ${code}:\n${said}`)));
  });
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    child.kill(signal);
    await ended;
  };
  return { socket, child, said: () => said, stop: () => end("SIGTERM"), kill9: () => end("SIGKILL") };
}
