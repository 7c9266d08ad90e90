// One QEMU: started paused, spoken to by QMP over a socket pair that nobody else can reach, killed with this process.
import { type ChildProcess, spawn } from "node:child_process";
import { Duplex } from "node:stream";
import { controlFd } from "./command-line.ts";
import { QmpClient, type QmpEvent } from "./qmp-client.ts";

const program = "qemu-system-x86_64";

export type QemuEnd = {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The last of what it said on standard error */
  readonly said: string;
};

export type QemuProcess = {
  readonly pid: number;
  readonly qmp: QmpClient;
  readonly ended: Promise<QemuEnd>;
  kill(): Promise<void>;
};

/**
 * Starts QEMU; resolves when it has built the machine, which is paused. Its standard input and output are ours;
 * `resizeFd` and `tapFds` are there under the numbers that command-line.ts gives them.
 * @throws {Error} with what QEMU said when it ends before that
 */
export async function startQemu(
  args: readonly string[],
  onEvent: (event: QmpEvent) => void,
  options: {
    readonly stdio?: "inherit" | "ignore";
    readonly resizeFd?: number;
    readonly tapFds?: readonly number[];
  } = {},
): Promise<QemuProcess> {
  const { stdio = "inherit", resizeFd = "ignore", tapFds = [] } = options;
  const child: ChildProcess = spawn("setpriv", ["--pdeathsig", "KILL", "--", program, ...args], {
    stdio: [stdio, stdio, "pipe", "pipe", resizeFd, ...tapFds],
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
  const control = child.stdio[controlFd];
  if (!(control instanceof Duplex) || child.pid === undefined) {
    const { said: why } = await ended;
    throw new Error(`${program} cannot be started: ${why}`);
  }
  const qmp = new QmpClient(control, onEvent);
  try {
    await qmp.open();
  } catch (cause) {
    await kill();
    const { said: why } = await ended;
    throw new Error(why === "" ? `${program} ended before it could be spoken to` : why, { cause });
  }
  return { pid: child.pid, qmp, ended, kill };
}
