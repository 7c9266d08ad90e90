// One QEMU: started paused and confined, spoken to by QMP over a socket pair that nobody else can reach, killed with this process.
import { type ChildProcess, spawn } from "node:child_process";
import { Duplex } from "node:stream";
import { controlFd, registerFd } from "./command-line.ts";
import { nativeProgram } from "./native.ts";
import type { QemuUser } from "./qemu-user.ts";
import { QmpClient, type QmpEvent } from "./qmp-client.ts";

const program = "qemu-system-x86_64";

export type QemuEnd = {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The last of what it said on standard error */
  readonly said: string;
};

export type QemuProcess = {
  readonly qmp: QmpClient;
  /** Where device registers are read and written (QEMU's qtest protocol) */
  readonly registers: Duplex;
  readonly ended: Promise<QemuEnd>;
  kill(): Promise<void>;
};

function confinement(user: QemuUser | undefined): string[] {
  const ids = user === undefined ? [] : ["--uid", `${user.uid}`, "--gid", `${user.gid}`];
  const groups = user?.groups.flatMap((group) => ["--group", `${group}`]) ?? [];
  return ["confine", ...ids, ...groups, "--parent", `${process.pid}`, "--"];
}

/**
 * Starts QEMU; resolves when it has built the machine, which is paused. `files` are there from the descriptor `firstFileFd` on.
 * @throws {Error} with what QEMU said when it ends before that
 */
export async function startQemu(
  args: readonly string[],
  onEvent: (event: QmpEvent) => void,
  options: {
    readonly stdio?: "inherit" | "ignore";
    readonly files?: readonly number[];
    readonly user?: QemuUser | undefined;
  } = {},
): Promise<QemuProcess> {
  const { stdio = "inherit", files = [], user } = options;
  const child: ChildProcess = spawn(nativeProgram, [...confinement(user), program, ...args], {
    stdio: [stdio, stdio, "pipe", "pipe", "pipe", ...files],
    env: { PATH: process.env["PATH"] },
  });
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString("utf8")).slice(-4096);
  });
  const ended = new Promise<QemuEnd>((resolve) => {
    child.once("error", (cause) => resolve({ exitCode: null, signal: null, said: cause.message }));
    child.once("close", (exitCode, signal) => resolve({ exitCode, signal, said: said.trim() }));
  });
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await ended;
  };
  const [control, registers] = [child.stdio[controlFd], child.stdio[registerFd]];
  if (!(control instanceof Duplex) || !(registers instanceof Duplex)) {
    const { said: why } = await ended;
    throw new Error(`${program} cannot be started: ${why}`);
  }
  // Its end is QEMU's.
  registers.on("error", () => {});
  const qmp = new QmpClient(control, onEvent);
  try {
    await qmp.open();
  } catch (cause) {
    await kill();
    const { said: why } = await ended;
    throw new Error(why === "" ? `${program} ended before it could be spoken to` : why, { cause });
  }
  return { qmp, registers, ended, kill };
}
