/** The log pumps of one microVM's containers. */
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { TinderboxError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { AgentSandbox, Place } from "../agent-sandbox.ts";
import { LogPump } from "../log-pump.ts";

/** The `logs` of a microVM's place, and how it goes on after a daemon restart. */
export class MicrovmLogs implements NonNullable<Place["logs"]> {
  readonly #directory: string;
  readonly #log: Logger;
  readonly #pumps = new Map<string, LogPump>();
  /** Set by who makes the sandbox: pumps open their streams through it. */
  sandbox: AgentSandbox | undefined;

  constructor(sandboxDirectory: string, log: Logger) {
    this.#directory = join(sandboxDirectory, "logs");
    this.#log = log;
  }

  #run(pump: LogPump): void {
    pump.run((body) => {
      if (!this.sandbox) throw new TinderboxError("INTERNAL", "a log was begun before its sandbox");
      return this.sandbox.openStream(body);
    });
  }

  async begin(containerId: string, logPath: string): Promise<void> {
    const pump = new LogPump(this.#directory, containerId, this.#log);
    await pump.begin(logPath);
    this.#pumps.set(containerId, pump);
    this.#run(pump);
  }

  /** Takes up the logs of the containers that the agent still has; records of others are removed. */
  async resume(containerIds: ReadonlySet<string>): Promise<void> {
    for (const name of await readdir(this.#directory).catch(() => [])) {
      const containerId = name.replace(/\.json$/, "");
      if (containerId === name || !containerIds.has(containerId)) {
        await rm(join(this.#directory, name), { force: true });
        continue;
      }
      const pump = new LogPump(this.#directory, containerId, this.#log);
      if (!(await pump.resume())) continue;
      this.#pumps.set(containerId, pump);
      this.#run(pump);
    }
  }

  async reopen(containerId: string, logPath: string): Promise<void> {
    const pump = this.#pumps.get(containerId);
    if (!pump) throw new TinderboxError("NOT_FOUND", `container ${containerId} has no log`);
    await pump.reopen(logPath);
  }

  async drained(containerId: string, end: bigint): Promise<void> {
    await this.#pumps.get(containerId)?.drained(Number(end));
  }

  async remove(containerId: string): Promise<void> {
    await this.#pumps.get(containerId)?.remove();
    this.#pumps.delete(containerId);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#pumps.values()].map((pump) => pump.close()));
  }
}
